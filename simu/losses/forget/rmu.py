"""RMU: at one layer, what is to be forgotten is steered to a random direction. With `hidden` on the rows to keep, which
hold their place there, it is the published method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from simu.fields import Layer, Positive, Seed, component, narrow
from simu.losses.hidden_states import block_hidden, row_distance
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def steering_vector(size: int, length: float, seed: int) -> Tensor:
    """float32 [size] of that length, its direction drawn from [0, 1)^size: one draw for all positions."""
    direction = torch.rand(size, generator=torch.Generator().manual_seed(narrow(seed)))
    return direction / direction.norm() * length


@component
class RMU:
    """‖h − c·u‖²/D, mean over a row's answer tokens and EOS, then over rows.

    h is the output of block `layer` where the token stands (as in the source; not where it is predicted), u a unit
    vector drawn from [0, 1)^D with `seed`. Only blocks up to `layer` run and get a gradient; the source trains three
    down-projections of them: here, whatever selection and mask let train.

    Source: Li et al. 2024, https://arxiv.org/abs/2403.03218; open-unlearning's RMU with retain_loss_type EMBED_DIFF,
    which divides each row's sum by every row's number of tokens (a broadcast of [B] over [B, 1]).
    """

    steering_coeff: Positive = 20.0
    """c: length of the vector steered to."""
    layer: Layer | None = None
    """Block, from 0; null: a quarter up the model, the source's 7 of 32."""
    seed: Seed = 0
    """Of the random direction."""

    unit: ClassVar[Unit] = "row"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        hidden = block_hidden(model, batch, self.layer, "objective.forget.layer")
        aim = steering_vector(hidden.shape[-1], self.steering_coeff, self.seed)
        return row_distance(hidden, aim.to(hidden), batch)
