"""The control of every mask: as many neurons per layer as F, drawn at random. L layers, D d_model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simu.masks.critical import critical_neurons, present
from simu.types import NeuronMask, NeuronScores, require


def random_neurons(counts: Tensor, width: int, seed: int) -> NeuronMask:
    """BoolTensor [L, width] with counts[l] neurons in layer l, drawn uniformly without replacement from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(counts), width, dtype=torch.bool)
    for layer, n in enumerate(counts.tolist()):
        mask[layer, torch.randperm(width, generator=generator)[:n]] = True
    return mask


@dataclass(frozen=True, kw_only=True)
class Random:
    """A random set, count-matched per layer to F: what the choice of neurons itself is worth."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    t: float = 0.3
    """The t of the F whose counts it has, 0 ≤ t ≤ 1."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        require(0 <= self.t <= 1, "t", self.t, "0 ≤ t ≤ 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 ≤ seed < 2^63")

    def __call__(
        self,
        forget: NeuronScores | None,
        retain: NeuronScores | None,
        shape: tuple[int, int],
        *,
        counts: tuple[int, int] = (1, 1),
    ) -> NeuronMask:
        """BoolTensor [L, D]; of the forget scores only the number of critical neurons per layer is read."""
        critical = critical_neurons(present(forget, "forget"), self.t)
        return random_neurons(critical.sum(dim=1), critical.shape[1], self.seed)
