"""Contrastive mask: critical on what forgetting needs beyond what retaining needs. L layers, D d_model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simu.masks.critical import critical_neurons, present
from simu.types import NeuronMask, NeuronScores, UserError, require


def contrast(forget: NeuronScores, retain: NeuronScores, counts: tuple[int, int]) -> NeuronScores:
    """Att_F / |D_F| − Att_R / |D_R|, float64 [L, D], of two sums of scores over |D_F| and |D_R| samples."""
    if min(counts) < 1:
        raise UserError(f"contrastive mask: counts {counts}; allowed is at least one sample each")
    return forget.double() / counts[0] - retain.double() / counts[1]


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """Critical on Att_F / |D_F| − Att_R / |D_R|. Forget and retain scores correlate at 0.99, so ordering by
    forget scores alone is barely specific to the forget set; their difference is."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    t: float = 0.3
    """Share of the layer's largest difference that a neuron must exceed, 0 ≤ t ≤ 1."""

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
        """BoolTensor [L, D] from the sums of scores [L, D] and the sample counts (|D_F|, |D_R|)."""
        return critical_neurons(contrast(present(forget, "forget"), present(retain, "retain"), counts), self.t)
