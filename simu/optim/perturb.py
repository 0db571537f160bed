"""Where the forget gradient is taken: at the weights, or so that it holds around them (arXiv 2502.05374)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import nn

from simu.fields import Count, Positive, component
from simu.optim.draws import add_normal
from simu.optim.norms import global_norm

Gradient = Callable[[float], float]
"""Adds `scale` times the forget term's gradient at the weights as they stand, over all processes; the term's loss."""


@component
class NoPerturbation:
    """The gradient at the weights."""

    passes: ClassVar[int] = 1

    def __call__(self, gradient: Gradient, parameters: Sequence[nn.Parameter], key: Sequence[int]) -> float:
        return gradient(1.0)


@component
class SAM:
    """∇f(θ + ρ·g/‖g‖₂) with g = ∇f(θ), the norm over all that trains: sharpness-aware minimisation of the forget term
    (Foret et al. 2021; Unlearn-Smooth). Two passes over the forget rows; exact under gradient accumulation. A zero
    gradient moves nothing."""

    passes: ClassVar[int] = 2
    rho: Positive = 0.01
    """Distance of the step uphill, over all that trains."""

    def __call__(self, gradient: Gradient, parameters: Sequence[nn.Parameter], key: Sequence[int]) -> float:
        return sharpness_aware(gradient, parameters, self.rho)


@component
class Smoothing:
    """The mean of ∇f(θ + σ·z_j) over draws z_j of standard normals (randomised smoothing; Unlearn-Smooth)."""

    sigma: Positive = 1e-4
    """Standard deviation of what is added to each weight."""
    draws: Count = 3
    """Passes over the forget rows."""

    @property
    def passes(self) -> int:
        return self.draws

    def __call__(self, gradient: Gradient, parameters: Sequence[nn.Parameter], key: Sequence[int]) -> float:
        return smoothed(gradient, parameters, self.sigma, self.draws, key)


def sharpness_aware(gradient: Gradient, parameters: Sequence[nn.Parameter], rho: float) -> float:
    """Leaves the gradient at the point uphill in `.grad`; returns the loss at θ. No gradient may be there before."""
    loss = gradient(1.0)
    norm = float(global_norm(parameters))
    kept = copies(parameters)
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None and norm:
                p.add_(p.grad.to(p.dtype), alpha=rho / norm)
            p.grad = None
    gradient(1.0)
    put_back(parameters, kept)
    return loss


def smoothed(
    gradient: Gradient, parameters: Sequence[nn.Parameter], sigma: float, draws: int, key: Sequence[int]
) -> float:
    """Adds the mean gradient to `.grad`; the mean loss. `key` decides the draws."""
    kept, total = copies(parameters), 0.0
    for j in range(draws):
        add_normal([p.detach() for p in parameters], sigma, *key, j)
        total += gradient(1.0 / draws)
        put_back(parameters, kept)
    return total / draws


def copies(parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    return [p.detach().clone() for p in parameters]


def put_back(parameters: Sequence[nn.Parameter], kept: Sequence[torch.Tensor]) -> None:
    """The weights as they were, to the bit."""
    with torch.no_grad():
        for p, value in zip(parameters, kept, strict=True):
            p.copy_(value)
