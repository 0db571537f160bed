"""First-order steps that keep a gradient's sign alone.

What less precise updates have removed is harder to bring back (arXiv 2510.00761).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from torch import nn

from simu.fields import Decay, Rate, between, component
from simu.optim.groups import decay_groups


class SignSGD(torch.optim.Optimizer):
    """θ ← θ·(1 − lr·wd) − lr·sign(m): with `beta` 0, m is the gradient and nothing is kept (Bernstein et al. 2018);
    else m ← β·m + (1−β)·g, its one state, of the parameter's dtype and shape (`exp_avg`)."""

    def __init__(self, params: Any, lr: float, beta: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr = float(group["lr"])
            for param in (p for p in group["params"] if p.grad is not None):
                if group["weight_decay"]:
                    param.mul_(1 - lr * group["weight_decay"])
                param.add_(torch.sign(self._momentum(param, group["beta"])).to(param.dtype), alpha=-lr)
        return loss

    def _momentum(self, param: nn.Parameter, beta: float) -> torch.Tensor:
        gradient = param.grad
        assert gradient is not None
        if not beta:
            return gradient
        state = self.state[param]
        if not state:
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        momentum: torch.Tensor = state["exp_avg"]
        return momentum.lerp_(gradient.to(momentum.dtype), 1 - beta)


@component
class BuildSignSGD:
    """Builds `SignSGD` without momentum over named parameters; no weight decay on norms and biases."""

    lr: Rate = 1e-3
    """Peak learning rate: every coordinate with a gradient moves by it."""
    weight_decay: Annotated[float, between(0, 1e3)] = 0.1
    """Decoupled, times lr."""

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> SignSGD:
        return SignSGD(decay_groups(named_parameters, self.weight_decay), self.lr, 0.0, self.weight_decay)


@component
class BuildSignAdam:
    """Builds `SignSGD` on Adam's first moment over named parameters; no weight decay on norms and biases."""

    lr: Rate = 5e-4
    """Peak learning rate: every coordinate with a gradient moves by it."""
    beta: Decay = 0.9
    """Decay of the first moment."""
    weight_decay: Annotated[float, between(0, 1e3)] = 0.1
    """Decoupled, times lr."""

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> SignSGD:
        return SignSGD(decay_groups(named_parameters, self.weight_decay), self.lr, self.beta, self.weight_decay)
