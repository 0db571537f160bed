"""The control of every mask: as many neurons per layer as F, drawn at random. L layers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from simu.fields import Seed, Share, component, narrow
from simu.masks.critical import critical_neurons
from simu.masks.needed import needed
from simu.types import NeuronMask, Scores


def random_neurons(counts: Tensor, width: int, seed: int) -> NeuronMask:
    """BoolTensor [L, width] with counts[l] neurons in layer l, drawn uniformly without replacement from `seed`."""
    generator = torch.Generator().manual_seed(narrow(seed))
    mask = torch.zeros(len(counts), width, dtype=torch.bool)
    for layer, n in enumerate(counts.tolist()):
        mask[layer, torch.randperm(width, generator=generator)[:n]] = True
    return mask


@component
class Random:
    """A random set, count-matched per layer to F: what the choice of neurons itself is worth."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    t: Share = 0.3
    """The t of the F whose counts it has."""
    seed: Seed = 0
    """Of the draw."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor [L, units]; of the forget scores only the number of critical neurons per layer is read."""
        critical = critical_neurons(needed(forget, "forget", shape).values, self.t)
        return random_neurons(critical.sum(dim=1), shape[1], self.seed)
