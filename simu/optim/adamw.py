"""AdamW: torch's own, with the project's parameter groups (first order)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import nn

from simu.fields import Decay, Rate, above, between, component
from simu.optim.groups import decay_groups


@component
class BuildAdamW:
    """Builds torch.optim.AdamW over named parameters; no weight decay on norms and biases."""

    lr: Rate = 5e-6
    """Peak learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the first and the second moment."""
    eps: Annotated[float, above(0, 1)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, between(0, 1e3)] = 0.1
    """Decoupled, times lr."""

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.AdamW:
        groups = decay_groups(named_parameters, self.weight_decay)
        return torch.optim.AdamW(groups, self.lr, self.betas, self.eps, self.weight_decay)
