"""Every neuron, or none: the two masks that read no scores. L layers."""

from __future__ import annotations

from typing import ClassVar

import torch

from simu.fields import Share, component
from simu.types import NeuronMask, Scores


@component
class Everything:
    """Every neuron trains: attention and the whole of each down-projection."""

    needs: ClassVar[frozenset[str]] = frozenset()
    t: Share = 0.3
    """Not read; there so that sweeps over `t` compose."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor of `shape` (L, units), all true."""
        return torch.ones(shape, dtype=torch.bool)


@component
class Nothing:
    """No neuron trains: attention only (what t = 1 gives)."""

    needs: ClassVar[frozenset[str]] = frozenset()
    t: Share = 0.3
    """Not read, as above."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor of `shape` (L, units), all false."""
        return torch.zeros(shape, dtype=torch.bool)
