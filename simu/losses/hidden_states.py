"""What the losses on hidden states share: the states of one block, and how far they are from where they should be.

Shapes: B rows, N labelled tokens, D hidden_size.
"""

from __future__ import annotations

from torch import Tensor, nn

from simu.losses.logprobs import row_means
from simu.models.anatomy import anatomy
from simu.models.forward import block_output, labelled, wide
from simu.types import Batch, Loss, UserError


def block_hidden(model: nn.Module, batch: Batch, layer: int | None, key: str) -> Tensor:
    """Output of block `layer` [N, D] where the labelled tokens stand; None is a quarter up the model.

    `key` names the setting in the UserError for a block that the model has not.
    """
    blocks = anatomy(model).blocks
    layer = max(0, len(blocks) // 4 - 1) if layer is None else layer
    if layer >= len(blocks):
        raise UserError(f"{key}={layer}: allowed is 0 ≤ layer < {len(blocks)} for this model")
    where = labelled(batch)
    return block_output(model, blocks[layer], batch)[where.row, where.position + 1]


def row_distance(hidden: Tensor, aim: Tensor, batch: Batch) -> Loss:
    """Mean square of hidden − aim [N, D] over D and the row's tokens, summed over rows."""
    rows = len(batch["labels"])
    squares = (wide(hidden) - wide(aim)).square().mean(-1)
    return Loss(row_means(squares, labelled(batch), rows).sum(), rows)
