"""From the last block's output to the loss and back: the model's own final norm, head and soft-capping.

Shapes: R = streams · path points · B rows of N shadow positions, n scored ones, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor

from simu.attribution.engine.capture import Dissected, Layout, precise
from simu.attribution.engine.injection import acting_as

Objective = Literal["log_prob", "nll", "prob"]


def gradients_of_loss(
    subject: Dissected,
    where: Layout,
    hidden: Tensor,
    leaves: Sequence[Tensor],
    objective: Objective,
    weights: Sequence[float],
    logits_rows: int,
) -> tuple[Tensor, ...]:
    """∂/∂leaves of Σ_i w · L_i over all streams of the last block's output [R, N, D].

    weights: w of each path point; within every stream of `hidden`, path points come in this order, B rows each.
    """
    streams = len(hidden) // len(where.scored)
    scored = where.scored.repeat(streams, 1)
    target = where.target.repeat(streams, 1)[scored]
    by_row = torch.tensor(weights, dtype=precise(hidden.dtype), device=hidden.device)
    by_row = by_row.repeat_interleave(len(where.scored)).repeat(streams // len(weights))
    weight = by_row[:, None].expand_as(scored)[scored][:, None]
    seed = torch.zeros_like(hidden)
    seed[scored] = tail_gradient(subject, hidden.detach()[scored], target, objective, logits_rows).mul_(weight)
    return torch.autograd.grad(hidden, tuple(leaves), grad_outputs=seed)


def tail_gradient(subject: Dissected, rows: Tensor, target: Tensor, objective: Objective, logits_rows: int) -> Tensor:
    """∂L/∂(last block's output) for rows [n, D], in chunks, so that [n, V] logits never exist at once."""
    chunks = []
    for part, y in zip(rows.split(logits_rows), target.split(logits_rows), strict=True):
        with torch.enable_grad():
            leaf = part.detach().requires_grad_()
            logits = tail(subject, leaf)
        with torch.no_grad():
            p = torch.softmax(logits.to(precise(logits.dtype)), dim=-1)
            weight = p.gather(1, y[:, None]) if objective == "prob" else None  # d P = P · d log P
            slope = p.scatter_add_(1, y[:, None], torch.full_like(p[:, :1], -1.0))  # -d log P: p - onehot(y)
            slope = slope if weight is None else slope.mul_(weight)
        down = torch.autograd.grad(logits, leaf, grad_outputs=slope.to(logits.dtype))[0]
        chunks.append(down if objective == "nll" else -down)
    return torch.cat(chunks) if chunks else rows


@torch.no_grad()
def losses(subject: Dissected, where: Layout, hidden: Tensor, objective: Objective, logits_rows: int) -> Tensor:
    """L_i of each scored position of the last block's output [B, N, D], in order: float32 or 64 [n]."""
    values = []
    rows, target = hidden[where.scored], where.target[where.scored]
    for part, y in zip(rows.split(logits_rows), target.split(logits_rows), strict=True):
        logits = tail(subject, part)
        log_prob = torch.log_softmax(logits.to(precise(logits.dtype)), dim=-1).gather(1, y[:, None])[:, 0]
        values.append({"log_prob": log_prob, "nll": -log_prob, "prob": log_prob.exp()}[objective])
    return torch.cat(values)


def tail(subject: Dissected, rows: Tensor) -> Tensor:
    """Logits [n, V] from the last block's output [n, D].

    The model runs on n one-token rows with its blocks stepped over, so nothing in its tail has to be known.
    """

    def skip(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return rows[:, None, :]

    with ExitStack() as stack:
        for block in subject.parts.blocks:
            stack.enter_context(acting_as(block, skip))
        ids = torch.zeros(len(rows), 1, dtype=torch.long, device=rows.device)
        seen = torch.ones(len(rows), 1, 1, 1, dtype=torch.bool, device=rows.device)  # of four dimensions: not read
        out = subject.model(input_ids=ids, attention_mask=seen, position_ids=ids[:1], use_cache=False)
    logits: Tensor = out.logits.flatten(0, 1)
    return logits
