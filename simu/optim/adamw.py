"""AdamW: torch's own, with the project's parameter groups (first order)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from simu.optim.groups import decay_groups
from simu.types import require


@dataclass(frozen=True, kw_only=True)
class BuildAdamW:
    """Builds torch.optim.AdamW over named parameters; no weight decay on norms and biases."""

    lr: float = 5e-6
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled, times lr."""

    def __post_init__(self) -> None:
        require(0 < self.lr < float("inf"), "lr", self.lr, "lr > 0")
        require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "0 ≤ β < 1, twice")
        require(0 < self.eps < 1, "eps", self.eps, "0 < eps < 1")
        require(0 <= self.weight_decay < float("inf"), "weight_decay", self.weight_decay, "weight_decay ≥ 0")

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.AdamW:
        groups = decay_groups(named_parameters, self.weight_decay)
        return torch.optim.AdamW(groups, self.lr, self.betas, self.eps, self.weight_decay)
