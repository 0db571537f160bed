"""Parameter groups: what weight decay applies to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def decay_groups(named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, the first with `weight_decay`, the second without: norms and biases, which are the tensors of one
    dimension. Each keeps its names ("param_names"), so that a checkpoint says whose moments it has."""
    named = list(named_parameters)
    decayed = [(n, p) for n, p in named if p.ndim >= 2]
    others = [(n, p) for n, p in named if p.ndim < 2]
    return [
        {"params": group, "weight_decay": decay} for group, decay in ((decayed, weight_decay), (others, 0.0)) if group
    ]
