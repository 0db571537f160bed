"""What the untouched model said, computed once and kept: no second model is in memory while the first one trains.

Kept for each row is the least that gives the loss its reference exactly: one log-probability (NPO, DPO), the hidden
states before the output head at the labelled positions (KL, UNDIAL: the head makes logits of them again; D numbers a
token instead of V), or one layer's hidden states there (RMU).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from simu.types import Batch


class Remembers(Protocol):
    """What a loss whose `needs_reference` is true has beside `simu.slots.LossTerm`."""

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """What the untouched model says of each row of a batch, one tensor a row; joined they are `Reference.values`.

        `model` is the untouched one; called once for each row that training will draw.
        """
        ...


@dataclass(frozen=True)
class Reference:
    """Of the rows of one batch, in their order."""

    values: Tensor
    """What the loss's `remember` gave of the rows, joined: [B], or [N, D]."""
    head: nn.Module
    """The untouched output head."""


def untouched_head(model: nn.Module) -> nn.Module:
    """The model's own output head where it is frozen; a bare copy (V × D numbers, no hooks) where it trains."""
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    if not any(p.requires_grad for p in head.parameters()):
        return head
    bare = copy.copy(head)
    bare._parameters = {n: None if p is None else frozen_copy(p) for n, p in head._parameters.items()}
    return bare


def frozen_copy(parameter: nn.Parameter) -> nn.Parameter:
    """Whole, also of a sharded one."""
    tensor = parameter.detach()
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
    return nn.Parameter(whole, requires_grad=False)
