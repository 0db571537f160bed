"""The loop against the same steps spelt out by hand with torch, and against being killed."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from simu import stop as signals
from simu.data.batching import Encoded, collate, pairing_table
from simu.losses.forget.ascent import Ascent
from simu.losses.objective import Objective, teach
from simu.losses.retain.ce import CE
from simu.training import Training, train
from simu.types import FieldError, Loss, UserError


def rows(n: int, seed: int, vocabulary: int = 97) -> list[Encoded]:
    """Rows of unequal length, so that a mean of means is not the mean."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, vocabulary, (length,), generator=generator).tolist())

    return [Encoded(ids(2, 6), ids(1, 9)) for _ in range(n)]


FORGET, RETAIN = rows(10, 1), rows(14, 2)


def graddiff(retain_weight: float = 1.0) -> Objective:
    return Objective(forget=Ascent(), retain=CE(), retain_weight=retain_weight)


def run(model, objective, forget=FORGET, retain=RETAIN, *, lr=1e-3, seed=3, optimizer=None, settings, **others):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=lr)
    return train(model, model, optimizer, objective, forget, retain, settings=settings, pad_id=0, seed=seed, **others)


def full_ce(model, chosen: list[Encoded]) -> torch.Tensor:
    """Token mean by Hugging Face's own shift over the whole [B, T, V] logits."""
    batch = collate(chosen, 0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)


def test_trajectory_equals_steps_spelt_out_by_hand(tiny_llama):
    """Two epochs of GradDiff, 5 steps (the last of each epoch is short), against torch alone and one joint backward."""
    reference = copy.deepcopy(tiny_llama)
    settings = Training(epochs=2, batch_size=4, micro_batch_tokens=20, warmup=0.4, clip_norm=0.5, max_steps=5)
    result = run(tiny_llama, graddiff(0.7), settings=settings)

    order, partner = pairing_table(10, 14, 2, 3)
    optimizer = torch.optim.AdamW(reference.parameters())
    factors = [1 / 2, 1.0, 3 / 3, 2 / 3, 1 / 3]  # two steps of warm-up, then down from 1
    for step, (epoch, columns) in enumerate(
        [(0, range(4)), (0, range(4, 8)), (0, range(8, 10)), (1, range(4)), (1, range(4, 8))]
    ):
        optimizer.param_groups[0]["lr"] = 1e-3 * factors[step]
        forget = full_ce(reference, [FORGET[order[epoch, i]] for i in columns])
        retain = full_ce(reference, [RETAIN[partner[epoch, i]] for i in columns])
        (-forget + 0.7 * retain).backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        record = result.records[step]
        assert record["step"] == step + 1
        assert record["epoch"] == epoch + 1
        assert record["forget_loss"] == pytest.approx(-forget.item(), rel=1e-9)
        assert record["retain_loss"] == pytest.approx(retain.item(), rel=1e-9)
        assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-9)
        assert record["lr"] == pytest.approx(1e-3 * factors[step])
        assert record["clipped_fraction"] is None
    assert result.steps == 5
    for trained, expected in zip(tiny_llama.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=0, atol=1e-10)


def test_fine_tuning_stops_at_the_measured_criterion(tiny_llama):
    def memorised(epoch: int) -> bool:
        assert not tiny_llama.training
        with torch.no_grad():
            return float(full_ce(tiny_llama, FORGET)) < 0.1

    settings = Training(epochs=200, batch_size=5, schedule="constant")
    result = run(tiny_llama, teach(), retain=(), lr=1e-2, settings=settings, stop=memorised)
    assert result.stopped
    assert 2 < result.steps < 400
    assert result.steps % 2 == 0  # asked after whole epochs only
    assert memorised(0)
    assert {r["retain_loss"] for r in result.records} == {None}


def test_zero_epochs_leave_the_model_alone(tiny_llama):
    before = copy.deepcopy(tiny_llama.state_dict())
    assert run(tiny_llama, graddiff(), settings=Training(epochs=0, batch_size=4)).steps == 0
    assert all(torch.equal(before[name], value) for name, value in tiny_llama.state_dict().items())


def test_records_are_told_as_they_happen(tiny_llama):
    told: list[dict] = []
    result = run(tiny_llama, graddiff(), settings=Training(epochs=1, batch_size=4), on_step=told.append)
    assert told == result.records
    assert len(told) == 3


class Broken:
    """Ascent whose third step's loss is not a number."""

    unit, answers, needs_reference = "token", "original", False

    def __init__(self):
        self.calls = 0

    def __call__(self, model, batch, reference=None):
        self.calls += 1
        loss = Ascent()(model, batch)
        return Loss(loss.total * math.nan, loss.count) if self.calls == 3 else loss


def test_a_loss_that_is_not_finite_ends_with_one_line_and_keeps_the_checkpoint(tiny_llama, tmp_path):
    path = tmp_path / "checkpoint.pt"
    settings = Training(epochs=2, batch_size=4, checkpoint_every=2)
    with pytest.raises(UserError) as caught:
        run(tiny_llama, Objective(forget=Broken(), retain=CE(), retain_weight=1.0), settings=settings, checkpoint=path)
    text = str(caught.value)
    assert "\n" not in text
    assert "step 3" in text
    assert "forget loss nan" in text
    assert "optimizer.lr" in text
    assert str(path) in text
    state = torch.load(path, weights_only=True)
    assert len(state["records"]) == 2
    assert all(t.isfinite().all() for t in state["selection"].values())
    assert all(p.isfinite().all() for p in tiny_llama.parameters())  # the broken step was not taken


def test_runaway_forgetting_is_said_once(tiny_llama, caplog):
    with caplog.at_level(logging.WARNING, "simu.training"):
        result = run(tiny_llama, graddiff(0.0), lr=0.1, settings=Training(epochs=8, batch_size=5))
    assert result.records[-1]["forget_loss"] < -2 * math.log(97)
    assert sum("destroyed" in message for message in caplog.messages) == 1


def test_mild_forgetting_is_not_called_runaway(tiny_llama, caplog):
    with caplog.at_level(logging.WARNING, "simu.training"):
        run(tiny_llama, graddiff(), lr=1e-4, settings=Training(epochs=1, batch_size=5))
    assert caplog.messages == []


@pytest.mark.parametrize("at", [1, 4, 5, 6])
def test_told_to_stop_it_ends_after_the_step_and_goes_on_to_the_same_bytes(tiny_llama, tmp_path, monkeypatch, at):
    """Steps 3 and 6 end an epoch; the criterion is met after the second."""
    settings, asked_after = Training(epochs=4, batch_size=4, checkpoint_every=1000), []

    def enough(epoch: int) -> bool:
        asked_after.append(epoch)
        return epoch == 2

    whole, copied = copy.deepcopy(tiny_llama), copy.deepcopy(tiny_llama)
    assert run(whole, graddiff(), settings=settings, stop=enough).steps == 6
    path = tmp_path / "training.pt"
    monkeypatch.setattr(signals._State, "working", True)

    def signalled(record) -> None:
        if record["step"] == at:
            signals.ask(signal.SIGTERM)

    with pytest.raises(signals.Stopped):
        run(copied, graddiff(), settings=settings, stop=enough, checkpoint=path, on_step=signalled)
    monkeypatch.setattr(signals._State, "asked", 0)
    seen = []
    result = run(tiny_llama, graddiff(), settings=settings, stop=enough, checkpoint=path, on_step=seen.append)
    assert (result.steps, result.stopped) == (6, True)
    assert [record["step"] for record in seen] == [1, 2, 3, 4, 5, 6]
    for one, other in zip(tiny_llama.parameters(), whole.parameters(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("micro_batch_tokens", 0),
        ("warmup", 1.5),
        ("clip_norm", 0.0),
        ("max_steps", -1),
        ("checkpoint_every", -1),
        ("epochs", 100_001),
    ],
)
def test_ranges(field, value):
    with pytest.raises(FieldError, match=f"{field}={value}"):
        Training(**{"epochs": 1, "batch_size": 4, field: value})


@pytest.mark.parametrize("damage", ["truncated", "other seed", "other fingerprint"])
def test_a_checkpoint_that_does_not_fit_is_said_and_not_used(tiny_llama, tmp_path, caplog, damage):
    path = tmp_path / "checkpoint.pt"
    settings = Training(epochs=1, batch_size=4, checkpoint_every=1)
    first = copy.deepcopy(tiny_llama)
    expected = run(first, graddiff(), settings=settings, checkpoint=path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-400])
    others = {"other seed": {"seed": 4}, "other fingerprint": {"fingerprint": "of another mask"}}.get(damage, {})
    result = run(tiny_llama, graddiff(), settings=settings, checkpoint=path, **others)
    assert "starting anew" in caplog.text
    assert result.steps == expected.steps
    equal = all(torch.equal(a, b) for a, b in zip(first.parameters(), tiny_llama.parameters(), strict=True))
    assert equal == (damage != "other seed")


# One process that trains and may be killed; run as a script by the test below.
CHILD = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {folder!r})
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from simu.training import Training, train
from {module} import graddiff, rows

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=97, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, attention_dropout=0.3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

def step(record):
    print(record["step"], flush=True)

train(model, model, optimizer, graddiff(), rows(10, 1), rows(14, 2), pad_id=0, seed=3,
    settings=Training(epochs=20, batch_size=4, checkpoint_every=7), on_step=step, checkpoint=Path({checkpoint!r}))
save_file(model.state_dict(), {out!r})
"""


def child(tmp_path: Path, name: str, checkpoint: str) -> subprocess.Popen:
    here = Path(__file__)
    code = CHILD.format(
        folder=str(here.parent), module=here.stem, checkpoint=str(tmp_path / checkpoint), out=str(tmp_path / name)
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here.parents[1]), "OMP_NUM_THREADS": "1"},
    )


def test_killed_at_any_step_and_started_again_gives_the_same_bytes(tmp_path):
    """60 steps with dropout, so that the random state counts; SIGKILL after a step drawn at random."""
    whole = child(tmp_path, "whole.safetensors", "whole.pt")
    victim_at = int.from_bytes(os.urandom(1), "big") % 45 + 8  # behind the first checkpoint, before the end
    victim = child(tmp_path, "resumed.safetensors", "resumed.pt")
    for line in victim.stdout:
        if int(line) == victim_at:
            victim.send_signal(signal.SIGKILL)
            break
    assert victim.wait() == -signal.SIGKILL
    assert not (tmp_path / "resumed.safetensors").exists()
    again = child(tmp_path, "resumed.safetensors", "resumed.pt")
    told, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert [int(x) for x in told.split()] == list(range(1, 61))  # the steps before the kill are told again
    assert whole.wait(timeout=120) == 0
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "resumed.safetensors").read_bytes(), victim_at
