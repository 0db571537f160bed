"""Gradient × activation: the first-order baseline of attribution (Shrikumar et al. 2017, arXiv 1605.01713)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from simu.attribution.integrated import Batches, Objective, Position, Reduction, neuron_attribution
from simu.data.batches import Tokens
from simu.types import NeuronScores, require


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """Σ_i β_i · ∂L_i/∂β_i: the path integral cut to its end point. One backward pass gives every layer, exactly, since
    there the vector is the clean one whatever the layer."""

    m: int = 1
    """Not read: there is one point, a = β."""
    objective: Objective = "log_prob"
    position: Position = "next_token"
    reduction: Reduction = "signed"
    tokens: Tokens = "answer"
    batch_size: int = 16
    """Rows of a micro-batch as the caller feeds them."""
    max_memory: float | None = None
    """GiB for everything; None: what `simu.attribution.plan` says."""

    def __post_init__(self) -> None:
        require(self.m >= 1, "m", self.m, "m ≥ 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "batch_size ≥ 1")
        require(self.max_memory is None or self.max_memory > 0, "max_memory", self.max_memory, "GiB > 0, or null")

    def __call__(
        self, model: nn.Module, batches: Batches, *, groups: int | None = None, checkpoint: str | Path | None = None
    ) -> NeuronScores:
        """Sums over samples: float32 [L, D], or [G, L, D] with `groups`."""
        return neuron_attribution(
            model,
            batches,
            m=1,
            objective=self.objective,
            position=self.position,
            reduction=self.reduction,
            tokens=self.tokens,
            groups=groups,
            max_memory=self.max_memory,
            checkpoint=checkpoint,
        )
