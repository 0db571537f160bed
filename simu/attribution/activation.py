"""|Activation|: the baseline that looks at no gradient at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from simu.attribution.engine.capture import layout, undisturbed
from simu.attribution.engine.engine import Engine
from simu.attribution.integrated import Batches, Objective, Position, scored_labels
from simu.data.batches import Tokens
from simu.progress import track
from simu.types import NeuronScores, require


@dataclass(frozen=True, kw_only=True)
class Activation:
    """Σ_i |β_i|: how large each output channel is where the answer is predicted (the mean is this over |D|)."""

    m: int = 1
    """Not read: there is no path."""
    objective: Objective = "log_prob"
    """Not read: there is no loss."""
    position: Position = "next_token"
    """Not read: both meanings give the same activations."""
    tokens: Tokens = "answer"
    batch_size: int = 16
    """Rows of a micro-batch as the caller feeds them."""

    def __post_init__(self) -> None:
        require(self.m >= 1, "m", self.m, "m ≥ 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "batch_size ≥ 1")

    def __call__(
        self, model: nn.Module, batches: Batches, *, groups: int | None = None, checkpoint: str | Path | None = None
    ) -> NeuronScores:
        """Sums over samples: float32 [L, D], or [G, L, D] with `groups`. `checkpoint` is not read: it is quick."""
        device = next(model.parameters()).device
        with undisturbed(model), torch.no_grad():
            engine = Engine(model)
            sums = torch.zeros(groups or 1, engine.parts.n_layers, engine.parts.d_model, dtype=torch.float64)
            for given in track(list(batches), "activations"):
                batch = {name: x.to(device) for name, x in given.items()}
                where = layout(scored_labels(batch, self.tokens), batch["attention_mask"], "next_token")
                group = batch["group"].cpu() if groups is not None else torch.zeros(len(where.scored), dtype=torch.long)
                for layer, beta in enumerate(engine.clean(batch, where).beta):
                    size = beta.float().abs().masked_fill(~where.scored[:, :, None], 0).sum(1)
                    sums[:, layer].index_add_(0, group, size.cpu().double())
        return (sums if groups is not None else sums[0]).float()
