"""Settings that must not matter: how a batch is portioned, the order of its rows, which side the padding is on."""

from __future__ import annotations

import copy

import pytest
import torch
from small import rows

from simu.data.batching import collate
from simu.gradients import ProcessGroup, Term, backward
from simu.losses.forget.ascent import Ascent
from simu.losses.forget.ceu import CEU
from simu.losses.forget.dpo import DPO
from simu.losses.forget.npo import NPO
from simu.losses.forget.pdu import PDU
from simu.losses.forget.rmu import RMU
from simu.losses.logprobs import token_log_probs
from simu.losses.objective import Objective
from simu.losses.retain.ce import CE
from simu.losses.retain.hidden import Hidden
from simu.losses.retain.kl import KL
from simu.training import Training, draw, train

FORGET, RETAIN, REFUSALS = rows(16, 1), rows(24, 2), rows(16, 3)


PAIRS = [
    (Ascent(), CE()),
    (Ascent(), KL()),
    (NPO(), CE()),
    (DPO(), KL()),
    (RMU(), Hidden()),
    (CEU(), KL()),
    (PDU(), CE()),
]


@pytest.mark.parametrize(("forget", "retain"), PAIRS, ids=lambda term: type(term).__name__)
def test_batch_1_times_8_equals_batch_8_times_1(tiny_llama, forget, retain):
    """Rows of unequal length: a mean of micro-batch means would differ."""
    objective = Objective(forget=forget, retain=retain, retain_weight=0.5)
    results = []
    for tokens in (None, 30, 1):
        model = copy.deepcopy(tiny_llama)
        settings = Training(epochs=2, batch_size=8, micro_batch_tokens=tokens)
        result = train(
            model,
            model,
            torch.optim.AdamW(model.parameters(), lr=1e-3),
            objective,
            FORGET,
            RETAIN,
            alternatives=REFUSALS,
            settings=settings,
            pad_id=0,
        )
        results.append((result.records, list(model.parameters())))
    for records, parameters in results[1:]:
        for name in ("forget_loss", "retain_loss", "grad_norm"):
            expected = pytest.approx([r[name] for r in results[0][0]], rel=1e-11, abs=1e-13)
            assert [r[name] for r in records] == expected
        for a, b in zip(parameters, results[0][1], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert results[0][0][0] != results[0][0][-1]


def gradient(model, indices: list[int]) -> list[torch.Tensor]:
    model.zero_grad()
    backward(model, Term([(r,) for r in FORGET], Ascent(), 1.0), indices, 30, 0, ProcessGroup())
    return [p.grad.clone() for p in model.parameters()]


def test_order_of_the_rows_in_a_batch(tiny_llama):
    for a, b in zip(gradient(tiny_llama, [0, 1, 2, 3, 4]), gradient(tiny_llama, [3, 0, 4, 2, 1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_side_of_the_padding(tiny_llama):
    right = collate(FORGET[:5], 0)
    left = {name: tensor.clone() for name, tensor in right.items()}
    for i, n in enumerate(right["attention_mask"].sum(1).tolist()):
        for name, tensor in right.items():
            left[name][i] = torch.cat([tensor[i, n:], tensor[i, :n]])
    assert not torch.equal(left["input_ids"], right["input_ids"])
    tiny_llama.set_attn_implementation("sdpa")  # eager gives NaN to a query that sees nothing
    # rotary positions are relative, so rows that start further right are the same rows
    values = [token_log_probs(tiny_llama, batch)[0] for batch in (left, right)]
    torch.testing.assert_close(*values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("tokens", [None, 1, 25])
def test_micro_batches_of_the_processes_make_up_the_batch(world_size, tokens):
    term = Term([(r,) for r in FORGET], Ascent(), 1.0)
    step = draw(len(FORGET), len(RETAIN), Training(epochs=1, batch_size=7), seed=5)[1]  # no word of processes there
    drawn = step.indices["forget"]
    everyone = [term.micro_batches(drawn, tokens, ProcessGroup(rank, world_size)) for rank in range(world_size)]
    assert sorted(i for own in everyone for batch in own for i in batch) == sorted(drawn)
    assert len({len(own) for own in everyone}) == 1  # as many passes everywhere
    for batch in (batch for own in everyone for batch in own if len(batch) > 1):
        assert len(batch) * max(len(FORGET[i]) for i in batch) <= (tokens or 7 * 13)


def test_alternatives_take_turns_by_epoch():
    """Rows 0–2 with their first alternatives are terms 0–2, with their second 3–5."""
    steps = draw(3, 24, Training(epochs=3, batch_size=2), seed=5, parts=2)
    plain = draw(3, 24, Training(epochs=3, batch_size=2), seed=5)
    shifts = {1: 0, 2: 3, 3: 0}
    for step, same in zip(steps, plain, strict=True):
        assert step.indices["forget"] == [i + shifts[step.epoch] for i in same.indices["forget"]]
        assert step.indices["retain"] == same.indices["retain"]


def test_every_forget_row_comes_once_an_epoch():
    steps = draw(16, 24, Training(epochs=3, batch_size=7), seed=5)
    assert [s.ends_epoch for s in steps] == [False, False, True] * 3
    for epoch in (1, 2, 3):
        assert sorted(i for s in steps if s.epoch == epoch for i in s.indices["forget"]) == list(range(16))
    assert all(len(s.indices["forget"]) == len(s.indices["retain"]) for s in steps)
    assert steps == draw(16, 24, Training(epochs=3, batch_size=7), seed=5)
    assert steps != draw(16, 24, Training(epochs=3, batch_size=7), seed=6)
