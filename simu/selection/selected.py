"""Attention and the mask's neurons train."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from simu.fields import component
from simu.selection.core import Selection
from simu.selection.select import select_parameters
from simu.types import NeuronMask, NeuronUnit


@component
class Selected:
    """Attention in full and the mask's rows, or columns, of each down-projection: SIMU."""

    reads_mask: ClassVar[bool] = True

    def __call__(
        self, model: nn.Module, mask: NeuronMask | None = None, *, unit: NeuronUnit = "row", master: bool = True
    ) -> Selection:
        """mask: bool or float [L, units]."""
        return select_parameters(model, mask, unit=unit, scope="selected", master=master)
