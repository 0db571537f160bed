"""Two processes with gloo end in what one process ends in: replicated or sharded (FSDP2), killed and resumed or not.

This file is also the program that each process runs: `python test_training_distributed.py OBJECTIVE SELECTION UPDATE
OUT CHECKPOINT DIE_AT`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from commands import FSDP
from test_training_options import fresh

HERE = Path(__file__)
UPDATES = {
    "plain": ("sophia", "none", 1e-3),
    "sam": ("sophia", "sam", 3e-4),  # two backward passes of rounding, which a step that is nearly a sign enlarges
    "smoothing": ("sophia", "smoothing", 3e-4),
    "zo": ("zo", "none", 30.0),
}
"""Optimizer, perturbation and rate."""


def launcher(launch: str) -> list[str]:
    """What comes before the program on the command line; both launchers pick a free port themselves."""
    replicas = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    return {"one": [], "replicated": replicas, "sharded": [*FSDP, "0"]}[launch]


def program(objective: str, selection: str, update: str, out: str, checkpoint: str, die_at: int) -> None:
    sys.path.insert(0, str(HERE.parent))
    from test_training_options import FORGET, MASKS, REFUSALS, RETAIN, fresh, option, options_of

    from simu.sharding import join, shard
    from simu.training import Training, train

    def on_step(record):
        if record["step"] == die_at:
            os._exit(9)  # both processes: as a scheduler would kill the job

    join()
    assert int(os.environ.get("WORLD_SIZE", "1")) == (dist.get_world_size() if dist.is_initialized() else 1)
    model = shard(fresh())
    name, perturbation, lr = UPDATES[update]
    losses, build, select = options_of(objective, name, selection, lr)
    chosen = select(model, MASKS["some"])
    optimizer = build(chosen.named_parameters())
    settings = Training(epochs=5, batch_size=3, micro_batch_tokens=16, max_steps=10, checkpoint_every=3)
    result = train(
        model,
        chosen,
        optimizer,
        losses,
        FORGET,
        RETAIN,
        alternatives=REFUSALS,
        perturbation=option("perturbation", perturbation),
        settings=settings,
        pad_id=0,
        on_step=on_step,
        checkpoint=Path(checkpoint),
    )
    weights = chosen.trained_tensors()
    if not dist.is_initialized() or dist.get_rank() == 0:
        sharded = sum(type(p).__name__ == "DTensor" for p in model.parameters())
        torch.save({"weights": weights, "records": result.records, "sharded": sharded}, out)


def run(
    launch: str,
    tmp_path: Path,
    objective: str,
    selection: str,
    update: str = "plain",
    *,
    die_at: int = 0,
    name: str = "",
) -> dict:
    out = tmp_path / f"{name or launch}.pt"
    command = [
        sys.executable,
        *launcher(launch),
        str(HERE),
        objective,
        selection,
        update,
        str(out),
        str(tmp_path / f"checkpoint-{name or launch}.pt"),
        str(die_at),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE.parents[1]),
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if die_at:
        assert done.returncode != 0
        assert not out.exists()
        return {}
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


def compare(one: dict, two: dict) -> None:
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-5)
    for a, b in zip(one["records"], two["records"], strict=True):
        for key in ("forget_loss", "retain_loss", "grad_norm", "lr"):
            assert b[key] == pytest.approx(a[key], rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "selection"),
    [("graddiff", "selected"), ("kl", "all"), ("dpo", "lora"), ("rmu", "all")],
)
def test_two_processes_equal_one(tmp_path, objective, selection):
    one = run("one", tmp_path, objective, selection)
    assert len(one["records"]) == 10
    assert one["sharded"] == 0
    compare(one, run("replicated", tmp_path, objective, selection))
    sharded = run("sharded", tmp_path, objective, selection)
    assert sharded["sharded"] > 0
    compare(one, sharded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "launch"),
    [("sam", "replicated"), ("sam", "sharded"), ("smoothing", "replicated"), ("zo", "replicated")],
)
def test_perturbed_and_zeroth_order_steps_of_two_processes_equal_those_of_one(tmp_path, update, launch):
    """A gradient's norm and two losses are of the rows of both; directions and noise are the same in both."""
    one = run("one", tmp_path, "graddiff", "selected", update)
    start = fresh().state_dict()
    assert any((weight - start[name]).norm() > 1e-3 for name, weight in one["weights"].items())
    compare(one, run(launch, tmp_path, "graddiff", "selected", update))


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["replicated", "sharded"])
def test_two_processes_killed_and_resumed_give_the_same_bytes(tmp_path, launch):
    whole = run(launch, tmp_path, "npo", "selected", name="whole")
    run(launch, tmp_path, "npo", "selected", die_at=8, name="resumed")
    resumed = run(launch, tmp_path, "npo", "selected", name="resumed")
    for name, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][name], weight)


if __name__ == "__main__":
    program(*sys.argv[1:6], int(sys.argv[6]))
