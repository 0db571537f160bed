"""|Activation|: the baseline that looks at no gradient at all."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import nn

from simu.attribution.engine.capture import Position, layout, precise, undisturbed
from simu.attribution.engine.engine import Engine
from simu.attribution.engine.tail import Objective
from simu.attribution.samples import Batches, Kept, Side, scored_batches
from simu.attribution.weight_gradients import unit_weights
from simu.data.batches import Tokens
from simu.fields import KNOB, between, component
from simu.progress import track
from simu.types import NeuronScores, NeuronUnit


@component
class Activation:
    """Σ_i |β_i|: how large each output channel (or |h_i|: each hidden neuron) is where the answer is predicted; the
    mean is this over |D|.

    `weighted`: times the norm of the neuron's weights, ‖W[k]‖₂ or, of hidden ones, of its column. MemPi (30182f3) has
    |mean a_j|·‖W_out,j‖ of hidden neurons, with the sign of a kept in the mean and W_out,j what the neuron writes, as
    the column is; a row is what the channel reads.
    """

    reads_other: ClassVar[bool] = False
    m: Annotated[int, between(1, 4096), KNOB] = 1
    """Not read: there is no path."""
    unit: NeuronUnit = "row"
    """What is scored: rows of the down-projection, or hidden neurons, its columns."""
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
        self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None
    ) -> NeuronScores:
        """Sums over samples: float32 [L, units]. `checkpoint` is not read: quick."""
        sums = activation_size(model, scored_batches(batches, self.tokens), self.unit)
        return sums * weight_norms(model, self.unit) if self.weighted else sums


def weight_norms(model: nn.Module, unit: NeuronUnit) -> NeuronScores:
    """‖W[k]‖₂ of each neuron's weights in the down-projections: float32 [L, units]."""
    weights = unit_weights(model, unit)
    return torch.stack([weight.to(precise(weight.dtype)).norm(dim=1).float().cpu() for weight in weights])


def activation_size(model: nn.Module, batches: Batches, unit: NeuronUnit) -> NeuronScores:
    """Σ_i |β_i|, or Σ_i |h_i|, over what the labels score: float32 [L, units]."""
    device = next(model.parameters()).device
    with undisturbed(model), torch.no_grad():
        engine = Engine(model, unit=unit)
        sums = torch.zeros(engine.parts.shape(unit), dtype=torch.float64)
        for on_cpu in track(list(batches), "activations"):
            batch = {name: x.to(device) for name, x in on_cpu.items()}
            where = layout(batch["labels"], batch["attention_mask"], "next_token")
            clean = engine.clean(batch, where)
            for layer, values in enumerate(clean.beta if unit == "row" else clean.read):
                size = values.float().abs().masked_fill(~where.scored[:, :, None], 0).sum(1)
                sums[layer] += size.cpu().double().sum(0)
    return sums.float()
