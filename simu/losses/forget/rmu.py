"""RMU: at one layer, what is to be forgotten is steered to a random direction and what is to be kept stays in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from simu.losses import Answers, Unit
from simu.losses.logprobs import row_sums
from simu.models.anatomy import anatomy
from simu.models.forward import forward, labelled, wide
from simu.models.reference import Reference
from simu.types import Batch, Loss, UserError, require


@dataclass(frozen=True, kw_only=True)
class RMU:
    """L = ‖h − c·u‖²/D (forget) + λ·‖h − h₀‖²/D (retain), mean over a row's answer tokens and EOS, then over rows.

    h is the output of block `layer` where the token stands (as in the source; not where it is predicted), h₀ the
    untouched model's, u a unit vector drawn from [0, 1)^D with `seed`. Only blocks up to `layer` run and get
    a gradient; the source trains three down-projections of them: here, whatever selection and mask let train.

    Source: Li et al. 2024, https://arxiv.org/abs/2403.03218; open-unlearning's RMU with retain_loss_type EMBED_DIFF.
    """

    retain_weight: float
    """λ ≥ 0."""
    steering_coeff: float = 20.0
    """c > 0: length of the vector steered to."""
    layer: int | None = None
    """Block, from 0; null: a quarter up the model, the source's 7 of 32."""
    seed: int = 0
    """Of the random direction."""

    needs_reference: ClassVar[frozenset[str]] = frozenset({"retain"})
    unit: ClassVar[Unit] = "row"
    retain_unit: ClassVar[Unit] = "row"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")
        require(self.steering_coeff > 0, "steering_coeff", self.steering_coeff, "a number > 0")
        require(self.layer is None or self.layer >= 0, "layer", self.layer, "a block's number from 0, or null")

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Each row's h₀: [n, D]."""
        where = labelled(batch)
        return list(self.hidden(model, batch).split(where.counts(len(batch["labels"]))))

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        hidden = self.hidden(model, batch)
        direction = torch.rand(hidden.shape[-1], generator=torch.Generator().manual_seed(self.seed))
        steered = direction / direction.norm() * self.steering_coeff
        return row_distance(hidden, steered.to(hidden), batch)

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        return row_distance(self.hidden(model, batch), reference.values, batch)

    def hidden(self, model: nn.Module, batch: Batch) -> Tensor:
        """The layer's output [N, D] where the labelled tokens stand."""
        blocks = anatomy(model).blocks
        layer = max(0, len(blocks) // 4 - 1) if self.layer is None else self.layer
        if layer >= len(blocks):
            raise UserError(f"objective.layer={layer}: allowed is 0 ≤ layer < {len(blocks)} for this model")
        where = labelled(batch)
        return block_output(model, blocks[layer], batch)[where.row, where.position + 1]


def row_distance(hidden: Tensor, aim: Tensor, batch: Batch) -> Loss:
    """Mean square of hidden − aim over D and the row's tokens, summed over rows."""
    where, rows = labelled(batch), len(batch["labels"])
    squares = (wide(hidden) - wide(aim)).square().mean(-1)
    lengths = row_sums(torch.ones_like(squares), where, rows)
    return Loss((row_sums(squares, where, rows) / lengths).sum(), rows)


class _Reached(Exception):
    """The forward has come to the block that was asked for."""


def block_output(model: nn.Module, block: nn.Module, batch: Batch) -> Tensor:
    """[B, T, D]; what stands above the block does not run."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    handle = block.register_forward_hook(keep)
    try:
        forward(model, batch)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]
