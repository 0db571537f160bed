"""Steps from two values of the loss, without a gradient (zeroth order), and first and zeroth order in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from simu.fields import Count, Positive, Rate, between, component
from simu.optim.draws import add_normal, norm_of_normal
from simu.optim.groups import decay_groups

Closure = Callable[[], float]


class ZerothOrder(torch.optim.Optimizer):
    """A two-point estimate on random directions, drawn again instead of being kept:

        g = (1/q) · Σ_j [f(θ + μ·u_j) − f(θ − μ·u_j)] / (2μ) · u_j      θ ← θ·(1 − lr·wd) − lr·g

    u_j is uniform on the unit sphere of the parameters, so g is about ∇f / d for d of them: rates are that much larger
    than a gradient's. `step(closure)` asks `closure` for f, without a graph; no state and no gradient are held, but for
    a copy of the parameters while it asks, so that they come back exactly. `seed` and the number of steps done decide
    the directions. `clip` bounds ‖g‖ (directions are taken as orthogonal, which q ≪ d of them nearly are).

    Source: MeZO (arXiv 2305.17333) with the unit sphere of arXiv 2510.00761.
    """

    zeroth_due: bool = True
    """Whether the next `step` wants a closure instead of gradients."""

    def __init__(
        self, params: Any, lr: float, *, mu: float, draws: int, weight_decay: float = 0.0, **more: Any
    ) -> None:
        self.seed, self.total = 0, 0
        self.clip: float | None = None
        self.norm = 0.0
        """‖g‖ of the last step, before clipping."""
        defaults = {"lr": lr, "mu": mu, "draws": draws, "weight_decay": weight_decay, "steps": 0, **more}
        super().__init__(params, defaults)

    def prepare(self, seed: int, total: int, clip: float | None) -> None:
        """Before the first step, and after a restart: what decides the directions, how many steps there are, and the
        largest norm of the estimate."""
        self.seed, self.total, self.clip = seed, total, clip

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One update; the mean of the losses asked for. Raises ValueError without a closure."""
        if closure is None:
            raise ValueError("a zeroth-order step needs a closure that returns the loss")
        done = int(self.param_groups[0]["steps"])
        slopes, loss = self._slopes(closure, done)
        self.norm = sum(slope**2 for slope, _ in slopes) ** 0.5 / len(slopes)
        shrink = 1.0 if self.clip is None else min(1.0, self.clip / (self.norm + 1e-6))
        for group in self.param_groups:
            if group["weight_decay"]:
                for param in group["params"]:
                    param.mul_(1 - self._rate(group) * group["weight_decay"])
            group["steps"] = done + 1
        rate = self._rate(self.param_groups[0])  # one for all groups: they differ in their decay alone
        for j, (slope, length) in enumerate(slopes):
            add_normal(self._parameters(), -rate * shrink * slope / len(slopes) / length, self.seed, done, j)
        return loss

    def _slopes(self, closure: Closure, done: int) -> tuple[list[tuple[float, float]], float]:
        """(slope along u_j, ‖z_j‖) of each direction u_j = z_j / ‖z_j‖, and the mean of all losses."""
        parameters, group = self._parameters(), self.param_groups[0]
        kept = [p.detach().clone() for p in parameters]
        found, losses = [], []
        for j in range(group["draws"]):
            length = norm_of_normal(parameters, self.seed, done, j)
            pair = []
            for sign in (1, -1):
                add_normal(parameters, sign * group["mu"] / length, self.seed, done, j)
                pair.append(closure())
                for p, value in zip(parameters, kept, strict=True):
                    p.detach().copy_(value)
            found.append(((pair[0] - pair[1]) / (2 * group["mu"]), length))
            losses += pair
        return found, sum(losses) / len(losses)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _rate(self, group: dict[str, Any]) -> float:
        return float(group["lr"])


class Hybrid(ZerothOrder):
    """`period` steps of AdamW, then as many of zeroth order, and so on (arXiv 2510.00761).

    Counted from the end, so that the last of `total` steps are of zeroth order. Both rates follow the schedule.
    """

    def __init__(self, params: Any, lr: float, *, zeroth_lr: float, period: int, **more: Any) -> None:
        groups = list(params)
        super().__init__(groups, lr, ratio=zeroth_lr / lr, period=period, **more)
        self._first = torch.optim.AdamW(self.param_groups, lr, weight_decay=self.defaults["weight_decay"])
        self.state = self._first.state

    @property
    def zeroth_due(self) -> bool:  # type: ignore[override]
        group = self.param_groups[0]
        return bool((max(0, self.total - 1 - group["steps"]) // group["period"]) % 2 == 0)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """One update, of the order that is due."""
        if self.zeroth_due:
            return super().step(closure)
        self._first.step()
        for group in self.param_groups:
            group["steps"] += 1
        return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._first.param_groups, self._first.state = self.param_groups, self.state

    def _rate(self, group: dict[str, Any]) -> float:
        return float(group["lr"]) * float(group["ratio"])


@component
class BuildZerothOrder:
    """Builds `ZerothOrder` over named parameters; no weight decay on norms and biases."""

    lr: Positive = 30.0
    """Peak learning rate, of an estimate that is about a gradient divided by the number of what trains."""
    mu: Positive = 0.5
    """Distance of the two points from θ, over all parameters together."""
    draws: Count = 1
    """Directions a step (q); two losses each."""
    weight_decay: Annotated[float, between(0, 1e3)] = 0.0
    """Decoupled, times lr."""

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> ZerothOrder:
        groups = decay_groups(named_parameters, self.weight_decay)
        return ZerothOrder(groups, self.lr, mu=self.mu, draws=self.draws, weight_decay=self.weight_decay)


@component
class BuildHybrid:
    """Builds `Hybrid` over named parameters; no weight decay on norms and biases."""

    lr: Rate = 2e-3
    """Peak learning rate of AdamW."""
    zeroth_lr: Positive = 30.0
    """Peak learning rate of the zeroth-order steps."""
    period: Count = 20
    """Steps of one order before the other's turn."""
    mu: Positive = 0.5
    """Distance of the two points from θ, over all parameters together."""
    draws: Count = 1
    """Directions a zeroth-order step (q)."""
    weight_decay: Annotated[float, between(0, 1e3)] = 0.0
    """Decoupled, times the rate at hand."""

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Hybrid:
        groups = decay_groups(named_parameters, self.weight_decay)
        own = {"mu": self.mu, "draws": self.draws, "weight_decay": self.weight_decay}
        return Hybrid(groups, self.lr, zeroth_lr=self.zeroth_lr, period=self.period, **own)
