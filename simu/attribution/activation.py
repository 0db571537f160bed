"""|Activation|: the baseline that looks at no gradient at all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import nn

from simu.attribution.engine.capture import Position, layout, precise, undisturbed
from simu.attribution.engine.engine import Engine
from simu.attribution.engine.tail import Objective
from simu.attribution.samples import Batches, scored_batches
from simu.attribution.weight_gradients import down_rows
from simu.data.batches import Tokens
from simu.fields import KNOB, between, component
from simu.progress import track
from simu.types import NeuronScores


@component
class Activation:
    """Σ_i |β_i|: how large each output channel is where the answer is predicted (the mean is this over |D|).

    `weighted`: times ‖W[k]‖₂, the norm of the down-projection's row. MemPi (30182f3) has |mean a_j|·‖W_out,j‖ of hidden
    neurons, with the sign of a kept in the mean and W_out,j what the neuron writes; a row is what the channel reads.
    """

    additive: ClassVar[bool] = True
    reads_other: ClassVar[bool] = False
    m: Annotated[int, between(1, 4096), KNOB] = 1
    """Not read: there is no path."""
    objective: Annotated[Objective, KNOB] = "log_prob"
    """Not read: there is no loss."""
    position: Annotated[Position, KNOB] = "next_token"
    """Not read: both meanings give the same activations."""
    weighted: bool = False
    """Times the norm of the unit's weights."""
    tokens: Tokens = "answer"
    batch_size: Annotated[int, between(1, 65536)] = 16
    """Rows of a micro-batch as the caller gives them. Changes scores by rounding alone."""

    def __call__(
        self,
        model: nn.Module,
        batches: Batches,
        *,
        against: Batches | None = None,
        groups: int | None = None,
        checkpoint: str | Path | None = None,
    ) -> NeuronScores:
        """Sums over samples: float32 [L, D], or [G, L, D] with `groups`. `checkpoint` is not read: it is quick."""
        sums = activation_size(model, scored_batches(batches, self.tokens), groups)
        return sums * row_norms(model) if self.weighted else sums


def row_norms(model: nn.Module) -> NeuronScores:
    """‖W[k]‖₂ of each row of the down-projections: float32 [L, D]."""
    return torch.stack([weight.to(precise(weight.dtype)).norm(dim=1).float().cpu() for weight in down_rows(model)])


def activation_size(model: nn.Module, batches: Batches, groups: int | None = None) -> NeuronScores:
    """Σ_i |β_i| over what the labels score: float32 [L, D], or [G, L, D] by the rows' batch["group"]."""
    device = next(model.parameters()).device
    with undisturbed(model), torch.no_grad():
        engine = Engine(model)
        sums = torch.zeros(groups or 1, engine.parts.n_layers, engine.parts.d_model, dtype=torch.float64)
        for on_cpu in track(list(batches), "activations"):
            batch = {name: x.to(device) for name, x in on_cpu.items()}
            where = layout(batch["labels"], batch["attention_mask"], "next_token")
            group = batch["group"].cpu() if groups is not None else torch.zeros(len(where.scored), dtype=torch.long)
            for layer, beta in enumerate(engine.clean(batch, where).beta):
                size = beta.float().abs().masked_fill(~where.scored[:, :, None], 0).sum(1)
                sums[:, layer].index_add_(0, group, size.cpu().double())
    return (sums if groups is not None else sums[0]).float()
