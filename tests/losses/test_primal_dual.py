"""λ as a dual variable: its values by hand, and the steps that it weighs."""

from __future__ import annotations

import pytest
import torch
from small import rows, two_blocks

from simu.losses.forget.ascent import Ascent
from simu.losses.forget.pdu import PDU
from simu.losses.objective import Objective
from simu.losses.primal_dual import PrimalDual, dual_ascent
from simu.losses.retain.ce import CE
from simu.losses.retain.none import NoRetain
from simu.training import Training, train


@pytest.mark.parametrize(
    ("weight", "loss", "expected"),
    [(100.0, 0.3, 100.0), (100.0, 0.5, 101.0), (2.0, 0.1, 1.0), (0.5, 0.0, 0.0), (0.0, 1.3, 5.0)],
)
def test_the_price_rises_above_the_tolerance_falls_below_it_and_never_turns(weight, loss, expected):
    assert dual_ascent(weight, loss, step=5.0, tolerance=0.3) == pytest.approx(expected)


def test_the_price_stays_through_the_warm_up():
    objective = PrimalDual(forget=PDU(), retain=CE(), retain_weight=1.0, dual_step=2.0, dual_warmup_epochs=2)
    assert [objective.next_retain_weight(1.0, 1.3, epoch) for epoch in (1, 2, 3)] == [1.0, 1.0, 3.0]


def trained(objective, epochs: int = 2):
    model = two_blocks()
    settings = Training(epochs=epochs, batch_size=2, warmup=0.0, schedule="constant", clip_norm=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = train(model, model, optimizer, objective, rows(4, 1), rows(6, 2), settings=settings, pad_id=0)
    return model, result.records


def test_the_log_shows_each_steps_price_and_the_next_follows_from_its_loss():
    chosen = PrimalDual(forget=Ascent(), retain=CE(), retain_weight=1.0, dual_step=0.5, tolerance=4.0)
    _, records = trained(chosen)
    expected = 1.0
    assert len(records) == 4
    for record in records:
        assert record["retain_weight"] == expected
        expected = max(0.0, expected + 0.5 * (record["retain_loss"] - 4.0))
    assert len({record["retain_weight"] for record in records}) == 4


def test_a_step_is_weighed_by_the_price_that_the_log_shows():
    """By hand: each of two steps by an objective of fixed λ, on the weights that the step before left."""
    chosen = PrimalDual(forget=Ascent(), retain=CE(), retain_weight=1.0, dual_step=0.5, tolerance=4.0)
    model, records = trained(chosen, epochs=1)
    fixed, _ = trained(Objective(forget=Ascent(), retain=CE(), retain_weight=1.0), epochs=1)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), fixed.parameters(), strict=True)]
    assert not all(same)  # the second step had another λ …
    still = PrimalDual(forget=Ascent(), retain=CE(), retain_weight=1.0, dual_step=0.0)
    model, records = trained(still, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fixed.parameters(), strict=True))
    assert [r["retain_weight"] for r in records] == [1.0, 1.0]  # … which is all that tells them apart


def test_without_a_retain_loss_there_is_no_price():
    _, records = trained(PrimalDual(forget=PDU(), retain=NoRetain(), retain_weight=3.0))
    assert all("retain_weight" not in record for record in records)
