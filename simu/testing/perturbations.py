"""What a perturbation must be: it takes the forget gradient near the weights, and leaves them where they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from simu.slots import Perturbation
from simu.testing.contract import Check, of, run_checks

ENDS = 3.0


@dataclass(frozen=True)
class Given:
    perturbation: Perturbation


def start() -> list[nn.Parameter]:
    return [nn.Parameter(torch.linspace(-1, 2, 12).reshape(3, 4)), nn.Parameter(torch.linspace(0, 1, 4))]


def asked(parameters: list[nn.Parameter], flat: bool = False) -> Callable[[float], float]:
    """What adds the gradient of a bent bowl (or of a constant)."""

    def gradient(scale: float) -> float:
        loss = torch.zeros((), dtype=torch.float64)
        for p in parameters:
            loss = loss + (0.0 if flat else 1.0) * ((p - ENDS).double() ** 4).sum()
        (scale * loss).backward()
        return float(loss.detach())

    return gradient


def taken(given: Given, key: tuple[int, int] = (0, 1), flat: bool = False) -> tuple[list[nn.Parameter], float]:
    """(parameters with their gradients, what was returned)."""
    parameters = start()
    return parameters, given.perturbation(asked(parameters, flat), parameters, key)


def check_perturbation(perturbation: Perturbation, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold a perturbation to its slot's contract (`simu.slots.Perturbation`). Raises AssertionError, naming
    perturbation, check and mistake."""
    run_checks(perturbation, Given(perturbation), CHECKS, expected_failed_checks)


def leaves_the_weights(given: Given) -> None:
    """To the bit."""
    parameters, _ = taken(given)
    for p, before in zip(parameters, start(), strict=True):
        assert p.equal(before), "moved the weights; put back a copy, not what was added"


def leaves_one_gradient(given: Given) -> None:
    """As large as one, whatever number of passes it took, and uphill."""
    parameters, _ = taken(given)
    plain = start()
    asked(plain)(1.0)
    assert all(p.grad is not None for p in parameters), "left a parameter without a gradient"
    found, there = (torch.cat([p.grad.flatten() for p in some if p.grad is not None]) for some in (parameters, plain))
    size = float(found.norm() / there.norm())
    assert 0.5 < size < 2, f"left a gradient {size:.3g} times that at the weights; divide by the number of passes"
    cosine = float(nn.functional.cosine_similarity(found, there, dim=0))
    assert cosine > 0.5, f"left a gradient of cosine {cosine:.2f} to that at the weights: not from nearby"


def tells_the_loss(given: Given) -> None:
    """That of the weights, or of the points nearby."""
    parameters = start()
    at = asked(parameters)(0.0)
    _, told = taken(given)
    assert abs(told - at) < 0.1 * at, f"returned {told:.6g}; the loss at the weights is {at:.6g}"


def asks_as_often_as_it_says(given: Given) -> None:
    """`passes` times, whatever the loss."""
    parameters, calls = start(), 0
    gradient = asked(parameters)

    def counted(scale: float) -> float:
        nonlocal calls
        calls += 1
        return gradient(scale)

    given.perturbation(counted, parameters, (0, 1))
    assert calls == given.perturbation.passes, f"passes is {given.perturbation.passes}, but it asked {calls} times"


def stands_a_flat_loss(given: Given) -> None:
    """A zero gradient moves nothing and stays zero."""
    parameters, _ = taken(given, flat=True)
    for p, before in zip(parameters, start(), strict=True):
        assert p.equal(before), "moved the weights where the gradient is zero"
        assert p.grad is None or not p.grad.any(), "made a gradient of none: was a zero norm divided by?"


def gives_the_same_gradient_twice(given: Given) -> None:
    """A function of its fields, the weights and `key`."""
    first, _ = taken(given, key=(3, 5))
    torch.rand(1)
    again, _ = taken(given, key=(3, 5))
    equal = [
        a.grad.equal(b.grad) for a, b in zip(first, again, strict=True) if a.grad is not None and b.grad is not None
    ]
    assert all(equal), "the same key gave another gradient: does it draw from the global generator?"


CHECKS: tuple[Check, ...] = (
    *of("perturbation"),
    leaves_the_weights,
    leaves_one_gradient,
    tells_the_loss,
    asks_as_often_as_it_says,
    stands_a_flat_loss,
    gives_the_same_gradient_twice,
)
