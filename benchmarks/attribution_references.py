"""For benchmarks/attribution.py: brute force and captum, which the engine is held against, and helpers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from simu.data.batching import Encoded, collate
from simu.models.anatomy import anatomy

Batch = Mapping[str, Tensor]


def brute_force(
    model: nn.Module, batch: Batch, m: int, *, lean: bool = False, steps_at_once: int = 1, every: int = 1
) -> Tensor:
    """One prefix a token, one layer, one path point at a time: float64 [L, D].

    As DEPN has it: for each token and layer a forward for the clean vector, then m times forward and backward, logits
    at every position. `lean`: the clean vectors of all layers from one forward, logits at the last position only.
    `steps_at_once` path points in a batch. `every`: only every so-many-th token (to time long answers).
    """
    down = anatomy(model).down_projections
    scores = torch.zeros(len(down), anatomy(model).d_model, dtype=torch.float64)
    for ids, t in list(samples(batch))[::every]:
        betas = clean_vectors(model, down, ids[:t]) if lean else []
        for layer in range(len(down)):
            beta = betas[layer] if lean else clean_vectors(model, down[layer : layer + 1], ids[:t], whole=True)[0]
            for first in range(1, m + 1, steps_at_once):
                points = torch.arange(first, min(m, first + steps_at_once - 1) + 1) / m
                a = (points[:, None] * beta).requires_grad_()
                log_prob = injected(model, down[layer], ids[:t], ids[t], a, whole=not lean).sum()
                scores[layer] += (beta * torch.autograd.grad(log_prob, a)[0]).sum(0).double() / m
    return scores


def captum_per_token(model: nn.Module, batch: Batch, m: int) -> Tensor:
    """captum's integrated gradients of the injected vector, baseline 0, right Riemann sum: the same quantity, lean.

    (Its LayerIntegratedGradients takes the baseline from a baseline *input*, so a zero vector at one position of one
    layer cannot be said in it.)
    """
    from captum.attr import IntegratedGradients

    down = anatomy(model).down_projections
    scores = torch.zeros(len(down), anatomy(model).d_model, dtype=torch.float64)
    for ids, t in samples(batch):
        for layer, beta in enumerate(clean_vectors(model, down, ids[:t])):
            at = partial(injected, model, down[layer], ids[:t], ids[t])
            found = IntegratedGradients(at).attribute(beta[None], baselines=0.0, n_steps=m, method="riemann_right")
            scores[layer] += found[0].detach().double()
    return scores


def samples(batch: Batch) -> Iterator[tuple[Tensor, int]]:
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        for t in range(1, len(ids)):
            if labels[t] != -100:
                yield ids, t


def clean_vectors(model: nn.Module, down: Sequence[nn.Module], prefix: Tensor, whole: bool = False) -> list[Tensor]:
    """β at the last position of one prefix, of each of `down`: [D] each."""
    seen: list[Tensor] = []
    handles = [module.register_forward_hook(lambda _, __, out: seen.append(out[0, -1])) for module in down]
    with torch.no_grad():
        model(input_ids=prefix[None], use_cache=False, logits_to_keep=0 if whole else 1)
    for handle in handles:
        handle.remove()
    return seen


def injected(
    model: nn.Module, down: nn.Module, prefix: Tensor, target: Tensor, a: Tensor, whole: bool = False
) -> Tensor:
    """log P(target | prefix) with the vector at the last position replaced by each row of a [n, D]: [n]."""
    handle = down.register_forward_hook(lambda _, __, out: torch.cat([out[:, :-1], a[:, None]], dim=1))
    try:
        kept = 0 if whole else 1
        logits = model(input_ids=prefix.expand(len(a), -1), use_cache=False, logits_to_keep=kept).logits[:, -1]
    finally:
        handle.remove()
    return torch.log_softmax(logits, dim=-1)[:, target]


def batches_of(rows: list[Encoded], pad: int, size: int) -> list[Batch]:
    rows = sorted(rows, key=len, reverse=True)
    return [collate(rows[i : i + size], pad) for i in range(0, len(rows), size)]


def timed(work: Callable[[], Tensor], repeats: int = 1) -> tuple[Tensor, float]:
    """What it gave, and its CPU seconds (the median of the repeats)."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        made = work()
        seconds.append(time.process_time() - start)
    return made, statistics.median(seconds)
