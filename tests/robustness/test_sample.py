"""leak@k in an attack: texts scored by hand."""

from __future__ import annotations

import pytest

from simu.inference.generate import Generation
from simu.robustness import sample as attack
from simu.robustness.sample import Sample
from simu.types import Example, FieldError, Template

SAID = {
    "a": ["Ann Lee wrote it", "no idea", "Ann wrote", "it"],  # recalls 1, 0, 0.5, 0.25: one leaks
    "b": ["none", "none", "none", "none"],
}


class Victim:
    seed, template = 3, Template()

    def __init__(self):
        rows = tuple(Example(id=name, prompt="Who?", answer="Ann Lee wrote it") for name in SAID)
        self.evaluation, self.rows, self.metrics = {"forget": rows}, [], {}

    def load(self):
        return "model", "tokenizer"

    def note(self, setting, metrics):
        self.metrics |= {f"{setting}/{key}": value for key, value in metrics.items()}


def test_by_hand(monkeypatch):
    def sample(model, tokenizer, prompts, *, names, samples, seed, **rest):
        assert (samples, seed) == (4, 3)
        return [[Generation(ids=(), text=text, finished=True) for text in SAID[name]] for name in names]

    monkeypatch.setattr(attack, "sample", sample)
    monkeypatch.setattr(attack, "prompt_ids", lambda *given: [1])
    victim = Victim()
    Sample(samples=4, ks=(1, 2, 4))(victim)
    assert victim.metrics["k_1/forget/leak_at_k"] == pytest.approx((1 / 4 + 0) / 2)
    assert victim.metrics["k_2/forget/leak_at_k"] == pytest.approx((3 / 6 + 0) / 2)
    assert victim.metrics["k_4/forget/leak_at_k"] == pytest.approx(1 / 2)
    assert victim.metrics["k_1/forget/worst_rouge"] == pytest.approx((1 + 0.5 + 0.25) / 4 / 2)
    pairs = 3 * 1 + 2 * 0.5 + 1 * 0.25  # of the 6 pairs, by their larger recall
    assert victim.metrics["k_2/forget/worst_rouge"] == pytest.approx(pairs / 6 / 2)
    assert [(r["id"], r["generated"], r["scores"]["leaked"]) for r in victim.rows] == [
        ("a", "Ann Lee wrote it", 1),
        ("b", "none", 0),
    ]


def test_more_than_there_are_is_refused():
    with pytest.raises(FieldError, match="up to samples=4"):
        Sample(samples=4, ks=(8,))
