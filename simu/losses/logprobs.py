"""Log-probabilities of labelled tokens and rows, and the cross-entropy that most losses are made of.

Shapes: B rows, T tokens, N labelled tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from simu.models.forward import CHUNK, Labelled, labelled_logits, wide
from simu.types import Batch, Loss


class LogProbability(torch.autograd.Function):
    """log P(target) [N] of logits [N, V]: one pass over the logits forward and one backward, a chunk at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        normaliser = torch.cat([wide(part).logsumexp(-1) for part in logits.split(CHUNK)])
        ctx.save_for_backward(logits, target, normaliser)
        return wide(logits.gather(1, target[:, None]).squeeze(1)) - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """gradient · (one-hot of the target − P)."""
        logits, target, normaliser = ctx.saved_tensors
        out = torch.empty_like(logits)
        for to, *parts in zip(*(t.split(CHUNK) for t in (out, logits, target, normaliser, gradient)), strict=True):
            part, aim, normal, scale = parts
            p = wide(part).sub(normal[:, None]).exp_().mul_(-scale[:, None])
            to.copy_(p.scatter_add_(1, aim[:, None], scale[:, None]))
        return out, None


def token_log_probs(model: nn.Module, batch: Batch) -> tuple[Tensor, Labelled]:
    """log P(token | what stands before it) [N], float32, of every labelled token; differentiable."""
    logits, where = labelled_logits(model, batch)
    return LogProbability.apply(logits, where.target), where


def row_sums(values: Tensor, where: Labelled, rows: int) -> Tensor:
    """[N] values summed over the labelled tokens of each row: [B]."""
    return values.new_zeros(rows).index_add(0, where.row, values)


def row_means(values: Tensor, where: Labelled, rows: int) -> Tensor:
    """[N] values averaged over the labelled tokens of each row: [B]."""
    return row_sums(values, where, rows) / row_sums(torch.ones_like(values), where, rows)


def row_log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """log P(answer and EOS | prompt) of each row: [B], float32."""
    values, where = token_log_probs(model, batch)
    return row_sums(values, where, len(batch["labels"]))


def answer_loss(model: nn.Module, batch: Batch) -> Loss:
    """CE of answer and EOS: Σ −log P over the labelled tokens, and how many they are."""
    log_probs, _ = token_log_probs(model, batch)
    return Loss(-log_probs.sum(), len(log_probs))
