"""The one place where logits and labels are shifted and masked against each other.

Shapes: B rows, T tokens, N labelled tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simu.types import IGNORE, Batch


@dataclass(frozen=True)
class Labelled:
    """The labelled tokens of a batch, row by row: LongTensors [N]."""

    row: Tensor
    position: Tensor
    """Where the token is predicted: one before where it stands."""
    target: Tensor


def labelled(batch: Batch) -> Labelled:
    """Labels at t are predicted at t - 1; a label at position 0 has no prediction and is not scored."""
    labels = batch["labels"][:, 1:]
    row, position = torch.nonzero(labels != IGNORE, as_tuple=True)
    return Labelled(row, position, labels[row, position])


def labelled_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Labelled]:
    """Logits [N, V] in the model's dtype at labelled positions only, and their labels.

    The head sees the labelled hidden states alone (its input is gathered by a hook), so the [B, T, V] logits never
    exist while the model's own tail (soft-capping, scaling) still runs on them.
    """
    where = labelled(batch)
    head = model.get_output_embeddings()  # type: ignore[operator]

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][where.row, where.position].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    finally:
        handle.remove()
    return output.logits.squeeze(0), where
