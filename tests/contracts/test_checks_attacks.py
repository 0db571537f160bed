"""The checks of attacks: each fails on a planted mistake."""

from __future__ import annotations

import torch
from planted import assert_fails, planted

from simu.fields import Positive, component
from simu.robustness.weights import Quantize
from simu.testing import check_attack


@component
class Silent:
    size: Positive = 1.0

    def __call__(self, victim):
        victim.load()


@component
class Misnames:
    size: Positive = 1.0

    def __call__(self, victim):
        victim.note("once", {"score": 0.5})


@component
class Constant:
    size: Positive = 1.0

    def __call__(self, victim):
        victim.note("once", {"forget/probability": 0.5})


@component
class NaN:
    size: Positive = 1.0

    def __call__(self, victim):
        victim.note("once", {"forget/probability": float("nan")})


@component
class Dice:
    size: Positive = 1e-2

    def __call__(self, victim):
        model, tokenizer = victim.load()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=self.size)
        victim.evaluate("noise", model, tokenizer)


@component
class Drops:
    size: Positive = 1.0

    def __call__(self, victim):
        victim.evaluation = {"forget": victim.evaluation["forget"][:1]}
        victim.evaluate("once", *victim.load())


@planted(
    (Silent(), "measures_forget_rows", "measured nothing"),
    (Misnames(), "measures_forget_rows", "measured once/score"),
    (NaN(), "measures_forget_rows", "is nan"),
    (Drops(), "leaves_the_rows", "changed its victim's rows"),
    (Dice(), "finds_the_same_twice", "and then"),
    (Constant(), "reads_its_model", "the same of two models"),
)
def test_a_planted_mistake_is_found(bad, name, says):
    assert_fails(check_attack, bad, name, says)


def test_a_right_one_passes():
    check_attack(Quantize(grids=("nf4",), group=32))
