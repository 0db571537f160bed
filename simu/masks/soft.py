"""Soft mask, the paper's future work: weights in [0, 1], forget-only neurons first. L layers, D d_model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from simu.masks.critical import critical_neurons, present
from simu.types import NeuronMask, NeuronScores, require


def soft_weights(forget: NeuronScores, retain: NeuronScores, t: float) -> NeuronMask:
    """float32 [L, D]: 1 on F \\ R; f / (f + r) < 1 on F ∩ R; 0 elsewhere.

    f and r are the scores relative to their layer's largest (f = Att_F / M_F, r = Att_R / M_R), both above t there: a
    shared neuron moves by the share of its influence that the forget set has, and every forget-only neuron moves more.
    """
    in_forget, in_retain = critical_neurons(forget, t), critical_neurons(retain, t)
    f = forget.double() / forget.double().amax(dim=1, keepdim=True)
    r = retain.double() / retain.double().amax(dim=1, keepdim=True)
    weights = in_forget.double()
    shared = in_forget & in_retain
    weights[shared] = (f / (f + r))[shared]
    return weights.to(torch.float32)


@dataclass(frozen=True, kw_only=True)
class Soft:
    """Weights that scale the update of a row (θ ← θ + w·Δ): forget-only neurons in full, shared ones in part."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    t: float = 0.3
    """Share of the layer's largest score that a neuron must exceed, for F and R alike, 0 ≤ t ≤ 1."""

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
        """FloatTensor [L, D] from both sums of scores [L, D]; `counts` cancels within a layer and is not read."""
        return soft_weights(present(forget, "forget"), present(retain, "retain"), self.t)
