"""A killed attribution goes on where it was, and ends the same to the bit."""

import os
import signal

import pytest
import torch

from simu import stop
from simu.attribution import neuron_attribution
from simu.attribution.engine.engine import Engine
from simu.store import partial


class Killed(BaseException):
    pass


@pytest.fixture
def passes(monkeypatch):
    """Count passes; `passes.kill_at(n)` dies at the start of the nth."""

    class Passes:
        seen, limit = 0, None

        def kill_at(self, n):
            self.seen, self.limit = 0, n

    counter = Passes()
    for name in ("gradients", "gradients_at_clean"):
        original = getattr(Engine, name)

        def counted(self, *args, _original=original, **kwargs):
            counter.seen += 1
            if counter.limit == counter.seen:
                raise Killed
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Engine, name, counted)
    monkeypatch.setattr(partial, "EVERY_SECONDS", 0.0)
    return counter


@pytest.fixture
def batches(reference):
    return [reference.batch([(3, 4), (2, 3)], seed=s) for s in range(3)]


@pytest.mark.parametrize("reduction", ["signed", "absolute"])
def test_resumes_to_the_same_bits_and_repeats_one_micro_batch_at_most(reduction, reference, batches, passes, tmp_path):
    model = reference.model("llama", **reference.small)
    settings = {"m": 3, "reduction": reduction, "max_memory": 0.0002}  # small passes: several a micro-batch
    whole = neuron_attribution(model, batches, **settings)
    total = passes.seen
    assert total >= 9
    for n in (1, 2, total // 2, total):
        folder = tmp_path / f"{n}"
        passes.kill_at(n)
        with pytest.raises(Killed):
            neuron_attribution(model, batches, **settings, checkpoint=folder)
        passes.kill_at(None)
        assert torch.equal(neuron_attribution(model, batches, **settings, checkpoint=folder), whole)
        assert passes.seen <= total - (n - 1) + (total // 3 if reduction == "absolute" else 0)
        assert [p.name for p in folder.iterdir()] == ["attribution.partial.safetensors"]


def test_partial_sums_of_another_run_are_not_used(reference, batches, passes, tmp_path, caplog):
    model = reference.model("llama", **reference.small)
    neuron_attribution(model, batches, m=3, checkpoint=tmp_path)
    changed = [
        (model, batches, {"m": 2}),
        (model, batches[:2], {"m": 3}),
        (model, batches, {"m": 3, "objective": "prob"}),
        (reference.model("llama", **reference.small | {"rms_norm_eps": 0.5}), batches[:1], {"m": 3}),
    ]
    with torch.no_grad():
        other = reference.model("llama", **reference.small)
        other.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    changed.append((other, batches, {"m": 3}))
    for model_, rows, settings in changed:
        caplog.clear()
        got = neuron_attribution(model_, rows, checkpoint=tmp_path, **settings)
        assert "another attribution" in caplog.text
        assert torch.equal(got, neuron_attribution(model_, rows, **settings))


def test_a_damaged_file_is_said_and_not_used(reference, batches, tmp_path, caplog):
    model = reference.model("llama", **reference.small)
    whole = neuron_attribution(model, batches, m=2, checkpoint=tmp_path)
    file = tmp_path / "attribution.partial.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(neuron_attribution(model, batches, m=2, checkpoint=tmp_path), whole)
    assert "cannot be read" in caplog.text


def test_one_altered_bit_is_said_and_not_used(reference, batches, tmp_path, caplog):
    model = reference.model("llama", **reference.small)
    whole = neuron_attribution(model, batches, m=2, checkpoint=tmp_path)
    file = tmp_path / "attribution.partial.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1  # in a sum
    file.write_bytes(content)
    assert torch.equal(neuron_attribution(model, batches, m=2, checkpoint=tmp_path), whole)
    assert "is altered: starting anew" in caplog.text


def test_told_to_stop_it_ends_after_the_pass_and_keeps_it(reference, batches, passes, tmp_path, monkeypatch):
    model = reference.model("llama", **reference.small)
    settings = {"m": 3, "max_memory": 0.0002}
    whole, total = neuron_attribution(model, batches, **settings), passes.seen
    monkeypatch.setattr(partial, "EVERY_SECONDS", 1e9)
    original = Engine.gradients

    def signalled(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "gradients", signalled)
    passes.seen = 0
    before = signal.getsignal(signal.SIGTERM)
    stop.listen(speaks=False)
    stop.begin()
    try:
        with pytest.raises(stop.Stopped):
            neuron_attribution(model, batches, **settings, checkpoint=tmp_path)
    finally:
        stop.end()
        monkeypatch.setattr(stop._State, "asked", 0)
        signal.signal(signal.SIGTERM, before)
    monkeypatch.setattr(Engine, "gradients", original)
    done, passes.seen = passes.seen, 0
    assert torch.equal(neuron_attribution(model, batches, **settings, checkpoint=tmp_path), whole)
    assert 0 < done < total
    assert passes.seen == total - done


def test_a_finished_one_runs_nothing(reference, batches, passes, tmp_path):
    model = reference.model("llama", **reference.small)
    whole = neuron_attribution(model, batches, m=2, checkpoint=tmp_path)
    passes.kill_at(1)
    assert torch.equal(neuron_attribution(model, batches, m=2, checkpoint=tmp_path), whole)
