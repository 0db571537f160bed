"""No retain term: nothing is read of the rows to keep."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from simu.fields import component
from simu.models.reference import Reference
from simu.slots import Unit
from simu.types import Batch, Loss


@component
class NoRetain:
    """0. The training loop makes no pass for it (`reads_rows`)."""

    unit: ClassVar[Unit] = "row"
    reads_rows: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return Loss(torch.zeros((), device=batch["labels"].device), len(batch["labels"]))
