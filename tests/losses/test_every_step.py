"""The contract table: every forget loss × every retain loss × optimizer takes a step, and goes on in the same bytes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from small import rows, two_blocks

from simu.config import build, conf_dir, plain
from simu.slots import Objective
from simu.training import Training, train

OBJECTIVES = sorted(p.stem for p in (conf_dir() / "objective").glob("*.yaml"))
RETAINS = sorted(p.stem for p in (conf_dir() / "objective" / "retain").glob("*.yaml"))
OPTIMIZERS = [o for o in ("sophia", "adamw", "signsgd") if (conf_dir() / "optimizer" / f"{o}.yaml").exists()]
FORGET, RETAIN, ALTERNATIVES = rows(4, 1), rows(6, 2), rows(4, 3)


@functools.cache
def composed(*words: str) -> dict:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return plain(compose("config", overrides=["method=original", "data=mini", *words]))


@functools.cache
def objective(name: str, retain: str) -> Objective:
    """The option's own objective with another retain loss, of weight 0.5."""
    own = build(composed(f"objective={name}")["objective"], "objective")
    other = build(composed("objective=ga", f"objective/retain={retain}")["objective"], "objective").retain
    return dataclasses.replace(own, retain=other, retain_weight=0.5)


class Killed(Exception):
    pass


def steps(chosen: Objective, optimizer, checkpoint=None, die_at: int = 0):
    """Two steps; dying right after one of them."""

    def on_step(record) -> None:
        if record["step"] == die_at:
            raise Killed

    model = two_blocks()
    settings = Training(epochs=1, batch_size=2, warmup=0.0, checkpoint_every=1)
    built = optimizer(model.named_parameters())
    what = (model, model, built, chosen, FORGET, RETAIN)
    result = train(
        *what, alternatives=ALTERNATIVES, settings=settings, pad_id=0, checkpoint=checkpoint, on_step=on_step
    )
    records = [{k: v for k, v in r.items() if k != "tokens_per_s"} for r in result.records]
    return model.state_dict(), records


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "retain"), itertools.product(OBJECTIVES, RETAINS))
def test_each_pair_steps_and_resumes(name, retain, optimizer, tmp_path):
    chosen = objective(name, retain)
    rated = build(composed(f"optimizer={optimizer}", "optimizer.lr=1e-3")["optimizer"], "optimizer")
    whole, records = steps(chosen, rated)
    assert [r["step"] for r in records] == [1, 2]
    for r in records:
        assert math.isfinite(r["forget_loss"])
        assert r["grad_norm"] > 0
        assert (r["retain_loss"] is None) == (retain == "none")
    before = two_blocks().state_dict()
    assert any(not torch.equal(before[key], value) for key, value in whole.items())
    assert all(value.isfinite().all() for value in whole.values())

    path = tmp_path / "training.pt"
    with pytest.raises(Killed):  # in the second step's report: the checkpoint is the first's
        steps(chosen, rated, path, die_at=2)
    resumed, again = steps(chosen, rated, path)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    assert again == records
