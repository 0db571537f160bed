"""Exact integrated gradients: SIMU's attribution (arXiv 2510.07822, Eq. 1-2)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from simu.attribution.engine.capture import Position
from simu.attribution.engine.planning import Plan, plan
from simu.attribution.engine.tail import Objective
from simu.attribution.exact import Layers, Reduction, neuron_attribution
from simu.attribution.path import PathRule
from simu.attribution.samples import Batches, Kept, Side, scored_batches
from simu.data.batches import Tokens
from simu.fields import GiB, between, component
from simu.types import NeuronScores, NeuronUnit


@component
class Integrated:
    """Integrated gradients along a path from 0 to β. The fields are those of `neuron_attribution`."""

    reads_other: ClassVar[bool] = False
    m: Annotated[int, between(1, 4096)] = 5
    """Path points."""
    unit: NeuronUnit = "row"
    """What is scored: rows of the down-projection, or hidden neurons, its columns."""
    objective: Objective = "log_prob"
    position: Position = "next_token"
    layers: Layers = "single"
    path: PathRule = "gauss"
    reduction: Reduction = "signed"
    tokens: Tokens = "answer"
    batch_size: Annotated[int, between(1, 65536)] = 16
    """Rows of a micro-batch as the caller gives them; memory may cut it smaller. Changes scores by rounding alone."""
    max_memory: GiB | None = None
    """For everything; None: what `simu.attribution.plan` says. Changes scores by rounding alone."""
    recompute: bool | None = None
    """Recompute activations backwards; None: only where memory asks for it. Changes scores by rounding alone."""

    def __call__(
        self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None
    ) -> NeuronScores:
        """Sums over samples: float32 [L, units]."""
        return self.with_completeness(model, batches, checkpoint=checkpoint)[0]

    def with_completeness(
        self, model: nn.Module, batches: Batches, *, checkpoint: Kept = None
    ) -> tuple[NeuronScores, Tensor | None]:
        """The scores, and how far each layer's are from what they should add up to: float64 [L] (`completeness`)."""
        return neuron_attribution(
            model,
            batches,
            m=self.m,
            unit=self.unit,
            objective=self.objective,
            position=self.position,
            layers=self.layers,
            path=self.path,
            reduction=self.reduction,
            tokens=self.tokens,
            max_memory=self.max_memory,
            recompute=self.recompute,
            checkpoint=checkpoint,
            return_completeness=True,
        )

    def plan(self, model: nn.Module, batches: Batches, *, device: torch.device | str | None = None) -> Plan:
        """Bytes and FLOPs by stage on `device`; `model` may be on the meta device."""
        return plan(
            model,
            scored_batches(batches, self.tokens),
            m=self.m,
            unit=self.unit,
            position=self.position,
            layers=self.layers,
            path=self.path,
            max_memory=self.max_memory,
            recompute=self.recompute,
            device=device,
        )
