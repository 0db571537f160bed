"""The norm of a gradient, over shards too."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def global_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """‖g‖₂ over all parameters that have a gradient, as a float64 scalar; the same in every process."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    whole = nn.utils.get_total_norm([g for g in gradients if not isinstance(g, DTensor)]).double()
    pieces = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    if pieces:
        square = nn.utils.get_total_norm(pieces).double() ** 2
        dist.all_reduce(square)
        whole = (whole.to(square) ** 2 + square).sqrt()
    return whole
