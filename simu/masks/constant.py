"""Every neuron, or none: the two masks that read no scores. L layers, D d_model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simu.types import NeuronMask, NeuronScores, require


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every neuron trains: attention and the whole of each down-projection."""

    needs: ClassVar[frozenset[str]] = frozenset()
    t: float = 0.3
    """Not read; every mask has the key, so that sweeps over `t` compose."""

    def __post_init__(self) -> None:
        require(0 <= self.t <= 1, "t", self.t, "0 ≤ t ≤ 1")

    def __call__(
        self,
        forget: NeuronScores | None,
        retain: NeuronScores | None,
        shape: tuple[int, int],
        *,
        counts: tuple[int, int] = (1, 1),
    ) -> NeuronMask:
        """BoolTensor of `shape` (L, D), all true."""
        return torch.ones(shape, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """No neuron trains: attention only (what t = 1 gives)."""

    needs: ClassVar[frozenset[str]] = frozenset()
    t: float = 0.3
    """Not read; every mask has the key, so that sweeps over `t` compose."""

    def __post_init__(self) -> None:
        require(0 <= self.t <= 1, "t", self.t, "0 ≤ t ≤ 1")

    def __call__(
        self,
        forget: NeuronScores | None,
        retain: NeuronScores | None,
        shape: tuple[int, int],
        *,
        counts: tuple[int, int] = (1, 1),
    ) -> NeuronMask:
        """BoolTensor of `shape` (L, D), all false."""
        return torch.zeros(shape, dtype=torch.bool)
