"""Gradient × activation: the first-order baseline of attribution (Shrikumar et al. 2017, arXiv 1605.01713)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import nn

from simu.attribution.engine.capture import Position
from simu.attribution.engine.tail import Objective
from simu.attribution.exact import Reduction
from simu.attribution.integrated import Integrated
from simu.attribution.samples import Batches, Kept, Side
from simu.data.batches import Tokens
from simu.fields import KNOB, GiB, between, component
from simu.types import NeuronScores, NeuronUnit


@component
class Gradient:
    """Σ_i β_i · ∂L_i/∂β_i, or for hidden neurons Σ_i h_i · ∂L_i/∂h_i: the path integral cut to its end point. One
    backward pass gives every layer, exactly, since there the vector is the clean one whatever the layer."""

    reads_other: ClassVar[bool] = False
    m: Annotated[int, between(1, 4096), KNOB] = 1
    """Not read: there is one point, a = β."""
    batch_size: Annotated[int, between(1, 65536)] = 16
    """Rows of a micro-batch as the caller gives them. Changes scores by rounding alone."""
    max_memory: GiB | None = None
    """For everything; None: what `simu.attribution.plan` says. Changes scores by rounding alone."""
    unit: NeuronUnit = "row"
    """What is scored: rows of the down-projection, or hidden neurons, its columns."""
    objective: Objective = "log_prob"
    position: Position = "next_token"
    reduction: Reduction = "signed"
    tokens: Tokens = "answer"

    def __call__(
        self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None
    ) -> NeuronScores:
        """Sums over samples: float32 [L, units]."""
        end_point = Integrated(
            m=1,
            path="right",
            unit=self.unit,
            objective=self.objective,
            position=self.position,
            reduction=self.reduction,
            tokens=self.tokens,
            batch_size=self.batch_size,
            max_memory=self.max_memory,
        )
        return end_point(model, batches, checkpoint=checkpoint)
