"""Hidden states: at one layer, what is to be kept stays where it was (RMU's retain term)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from simu.fields import Layer, component
from simu.losses.hidden_states import block_hidden, row_distance
from simu.models.forward import labelled
from simu.models.reference import Reference
from simu.slots import Unit
from simu.types import Batch, Loss

LAYER = "objective.retain.layer"


@component
class Hidden:
    """‖h − h₀‖²/D, mean over a row's answer tokens and EOS, then over rows; h is the output of block `layer` where the
    token stands, h₀ the untouched model's.

    Source: Li et al. 2024, https://arxiv.org/abs/2403.03218; open-unlearning's retain_loss_type EMBED_DIFF.
    """

    layer: Layer | None = None
    """Block, from 0; null: a quarter up the model."""

    unit: ClassVar[Unit] = "row"
    reads_rows: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Each row's h₀: [n, D]."""
        hidden = block_hidden(model, batch, self.layer, LAYER)
        return labelled(batch).by_row(hidden, len(batch["labels"]))

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        return row_distance(block_hidden(model, batch, self.layer, LAYER), reference.values, batch)
