"""Attention and the mask's rows train."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from simu.fields import component
from simu.selection.core import Selection
from simu.selection.select import select_parameters
from simu.types import NeuronMask


@component
class Selected:
    """Attention in full and the mask's rows of each down-projection: SIMU."""

    reads_mask: ClassVar[bool] = True

    def __call__(self, model: nn.Module, mask: NeuronMask | None = None, *, master: bool = True) -> Selection:
        """mask: bool or float [L, D]."""
        return select_parameters(model, mask, scope="selected", master=master)
