"""The one place where logits and labels are shifted and masked against each other.

Shapes: B rows, T tokens, N labelled tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from simu.types import IGNORE, Batch, Loss

CHUNK = 128
"""Labelled tokens whose float32 logits exist at one time: 16 MiB at a vocabulary of 32 000."""


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


def by_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of CHUNK rows of the `tensors` [N, …] at a time, giving [N]; backward recomputes each chunk, so what
    it needs inside (float32 logits, probabilities) never exists for all rows at once."""
    parts = zip(*(t.split(CHUNK) for t in tensors), strict=True)
    return torch.cat([checkpoint(function, *p, use_reentrant=False, preserve_rng_state=False) for p in parts])


def log_probability(logits: Tensor, target: Tensor) -> Tensor:
    """log P(target) [N] in float32 (float64 stays) of logits [N, V]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return -cross_entropy(wide, target, reduction="none")


def token_log_probs(model: nn.Module, batch: Batch) -> tuple[Tensor, Labelled]:
    """log P(token | what stands before it) [N], float32, of every labelled token; differentiable."""
    logits, where = labelled_logits(model, batch)
    return by_chunks(log_probability, logits, where.target), where


def row_sums(values: Tensor, where: Labelled, rows: int) -> Tensor:
    """[N] values summed over the labelled tokens of each row: [B]."""
    return values.new_zeros(rows).index_add(0, where.row, values)


def answer_loss(model: nn.Module, batch: Batch) -> Loss:
    """CE of answer and EOS: Σ −log P over the labelled tokens, and how many they are."""
    log_probs, _ = token_log_probs(model, batch)
    return Loss(-log_probs.sum(), len(log_probs))
