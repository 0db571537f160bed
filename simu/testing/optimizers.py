"""What an optimizer must be: one of torch that lowers a loss, resumes exactly and leaves what has no gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from simu.slots import Optimizer
from simu.testing.contract import Check, of, run_checks

STEPS = 4


@dataclass(frozen=True)
class Given:
    optimizer: Optimizer

    def start(self) -> tuple[nn.Module, Any]:
        model = parabola()
        return model, self.optimizer(model.named_parameters())


def parabola() -> nn.Module:
    """Weights that are away from the least of `loss`, the same each time."""
    model = nn.Module()
    for name, shape in (("matrix", (3, 4)), ("bias", (4,)), ("still", (2, 2))):
        values = torch.linspace(-1, 2, torch.Size(shape).numel()).reshape(shape)
        model.register_parameter(name, nn.Parameter(values))
    return model


def loss(model: Any) -> torch.Tensor:
    """The squared distance from 3, as flat as a trained model's loss; `still` has no part in it."""
    total: torch.Tensor = ((model.matrix - 3).double() ** 2).sum() + ((model.bias - 3).double() ** 2).sum()
    return 1e-3 * total


def steps(model: nn.Module, optimizer: Any, count: int) -> Iterator[float]:
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        value = loss(model)
        value.backward()
        optimizer.step(lambda: float(loss(model).detach()))  # a zeroth-order optimizer asks for losses
        yield float(value.detach())


def check_optimizer(optimizer: Optimizer, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold an optimizer to its slot's contract (`simu.slots.Optimizer`). Raises AssertionError, naming optimizer, check
    and mistake."""
    run_checks(optimizer, Given(optimizer), CHECKS, expected_failed_checks)


def builds_a_torch_optimizer(given: Given) -> None:
    """Of (name, parameter) pairs, each of which it holds once, at the rate that its field says."""
    model, made = given.start()
    assert isinstance(made, torch.optim.Optimizer), (
        f"returned a {type(made).__name__}; a torch.optim.Optimizer is needed"
    )
    held = [id(p) for group in made.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters()), "does not hold each parameter exactly once"
    rates = {float(group["lr"]) for group in made.param_groups}
    assert rates == {given.optimizer.lr}, f"its groups' rates are {sorted(rates)}, its field lr {given.optimizer.lr}"


def lowers_a_loss(given: Given) -> None:
    """Steps go downhill, and every coordinate with a gradient moves."""
    model, made = given.start()
    before = copy.deepcopy(model.state_dict())
    list(steps(model, made, 1))
    for name in ("matrix", "bias"):
        assert bool((model.state_dict()[name] != before[name]).all()), (
            f"a step left coordinates of {name} where they were"
        )
    values = list(steps(model, made, STEPS))
    assert values[-1] < values[0], f"the loss of a parabola went from {values[0]:.6g} to {values[-1]:.6g}"


def leaves_what_has_no_gradient(given: Given) -> None:
    """A parameter without a gradient stays, weight decay or not."""
    model, made = given.start()
    before = model.state_dict()["still"].clone()
    list(steps(model, made, STEPS))
    assert model.state_dict()["still"].equal(before), "moved a parameter that had no gradient"


def resumes_exactly(given: Given) -> None:
    """From its state_dict it goes on as if nothing had happened, to the bit."""
    model, made = given.start()
    list(steps(model, made, STEPS))
    other, resumed = given.start()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    for which, optimizer in ((model, made), (other, resumed)):
        list(steps(which, optimizer, STEPS))
    for name, value in model.state_dict().items():
        assert value.equal(other.state_dict()[name]), f"{name} differs after a restart; keep all state in self.state"


def gives_the_same_steps_twice(given: Given) -> None:
    """A function of its fields and of the gradients."""
    ends = []
    for _ in range(2):
        model, made = given.start()
        list(steps(model, made, STEPS))
        torch.rand(1)
        ends.append(model.state_dict())
    assert all(value.equal(ends[1][name]) for name, value in ends[0].items()), "the same gradients gave other steps"


CHECKS: tuple[Check, ...] = (
    *of("optimizer"),
    builds_a_torch_optimizer,
    lowers_a_loss,
    leaves_what_has_no_gradient,
    resumes_exactly,
    gives_the_same_steps_twice,
)
