"""The checks of perturbations: each fails on a planted mistake."""

from __future__ import annotations

from typing import ClassVar

import torch
from planted import assert_fails, planted

from simu.fields import Positive, component
from simu.optim.perturb import SAM, copies, put_back
from simu.testing import check_perturbation


@component
class Once:
    """The gradient at the weights; every bad one differs from it by one mistake."""

    passes: ClassVar[int] = 1

    def __call__(self, gradient, parameters, key):
        return gradient(1.0)


@component
class AsksAgain(Once):
    def __call__(self, gradient, parameters, key):
        gradient(0.5)
        return gradient(0.5)


@component
class Drifts(Once):
    """Takes away what it added."""

    passes: ClassVar[int] = 1
    rho: Positive = 0.1

    def __call__(self, gradient, parameters, key):
        with torch.no_grad():
            for p in parameters:
                p.add_(self.rho)
        loss = gradient(1.0)
        with torch.no_grad():
            for p in parameters:
                p.sub_(self.rho)
        return loss


@component
class Doubles(Once):
    """Keeps the gradient of the first pass."""

    passes: ClassVar[int] = 1
    rho: Positive = 0.1

    def __call__(self, gradient, parameters, key):
        gradient(1.5)
        return gradient(1.5)


@component
class FarAway(Once):
    """The other side of the bowl."""

    passes: ClassVar[int] = 1
    rho: Positive = 10.0

    def __call__(self, gradient, parameters, key):
        kept = copies(parameters)
        with torch.no_grad():
            for p in parameters:
                p.copy_(6.0 - p)
        loss = gradient(1.0)
        put_back(parameters, kept)
        return loss


@component
class Mute(Once):
    rho: Positive = 0.1

    def __call__(self, gradient, parameters, key):
        gradient(1.0)
        return 0.0


@component
class Divides(Once):
    rho: Positive = 1e-3

    def __call__(self, gradient, parameters, key):
        loss = gradient(1.0)
        for p in parameters:
            p.grad = p.grad + self.rho * p.grad / p.grad.norm()
        return loss


@component
class Dice(Once):
    sigma: Positive = 1e-3

    def __call__(self, gradient, parameters, key):
        kept = copies(parameters)
        with torch.no_grad():
            for p in parameters:
                p.add_(torch.randn_like(p), alpha=self.sigma)
        loss = gradient(1.0)
        put_back(parameters, kept)
        return loss


@planted(
    (Drifts(), "leaves_the_weights", "put back a copy"),
    (Doubles(), "leaves_one_gradient", "divide by the number of passes"),
    (FarAway(), "leaves_one_gradient", "not from nearby"),
    (Mute(), "tells_the_loss", "returned 0"),
    (AsksAgain(), "asks_as_often_as_it_says", "passes is 1, but it asked 2 times"),
    (Divides(), "stands_a_flat_loss", "a zero norm divided by"),
    (Dice(), "gives_the_same_gradient_twice", "another gradient"),
)
def test_a_planted_mistake_is_found(bad, name, says):
    assert_fails(check_perturbation, bad, name, says)


def test_a_right_one_passes():
    check_perturbation(SAM(rho=0.05))
    check_perturbation(Once())
