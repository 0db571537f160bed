"""Every parameter trains."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from simu.fields import component
from simu.selection.core import Selection
from simu.selection.select import select_parameters
from simu.types import NeuronMask, NeuronUnit


@component
class Everything:
    """Every parameter trains: FO-GradDiff and SO-GradDiff, as SOUL."""

    reads_mask: ClassVar[bool] = False

    def __call__(
        self, model: nn.Module, mask: NeuronMask | None = None, *, unit: NeuronUnit = "row", master: bool = True
    ) -> Selection:
        """`mask` and `unit` are not read."""
        return select_parameters(model, None, scope="all", master=master)
