"""The layer under intervention: what stands in for its down-projection's output, and what need not be computed.

Shapes: R = streams · path points · B rows of N shadow positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from simu.attribution.engine.capture import Clean, Dissected, precise


@contextmanager
def acting_as(module: nn.Module, forward: Any) -> Iterator[None]:
    """While open, `module` computes `forward`."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def scaled_vectors(clean: Clean, layer: int, fractions: Sequence[float], start: Tensor | None = None) -> Tensor:
    """a_j = start + fraction · (β − start) where the vector is replaced, β elsewhere: a leaf [path points · B, N, D].

    start: [D], where the path begins; None: at 0.
    """
    beta = clean.beta[layer]
    points = torch.tensor(fractions, dtype=precise(beta.dtype), device=beta.device)[:, None, None, None]
    moved = points * beta.to(points) if start is None else torch.lerp(start.to(points), beta.to(points), points)
    a = moved.to(beta.dtype).flatten(0, 1)
    if not clean.everywhere:
        a = torch.where(_replaced(clean, len(a)), a, repeated(beta, len(fractions)))
    return a.requires_grad_()


def repeated(x: Tensor, points: int) -> Tensor:
    """[B, N, D] → [path points · B, N, D]."""
    return x.expand(points, *x.shape).flatten(0, 1)


def _replaced(clean: Clean, rows: int) -> Tensor:
    """bool [rows, N, 1]: where the vector is replaced, in every stream."""
    inject = clean.where.inject
    return inject.repeat(rows // len(inject), 1)[:, :, None]


@contextmanager
def injection(
    subject: Dissected, clean: Clean, layer: int, rows: int, a: Tensor | None, offset: Tensor | None
) -> Iterator[None]:
    """While open, the down-projection of `layer` gives `a` in the last len(a) of R rows (or its output + `offset`)."""
    mlp = subject.mlps[layer]
    if a is not None and clean.final[layer] and mlp is not None and clean.everywhere:
        rest, original = rows - len(a), mlp.forward
        with acting_as(mlp, lambda x: torch.cat([original(x[:rest]), a]) if rest else a):
            yield
        return

    def replace(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> Tensor:
        if a is None:
            return out if offset is None else out + offset.view(out.shape)
        computed = out.view(rows, a.shape[1], -1)
        new = a
        if not clean.everywhere and len(a) == rows:  # all layers at once: elsewhere as computed
            new = torch.where(_replaced(clean, rows), a, computed)
        return torch.cat([computed[: rows - len(a)], new]).view(out.shape)

    handle = subject.parts.down_projections[layer].register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def known_attention(subject: Dissected, clean: Clean, layer: int, rows: int, fresh: int) -> Iterator[None]:
    """While open, attention gives the clean pass's output in the last `fresh` rows without computing it."""
    attended, module = clean.attended[layer], subject.attentions[layer]
    if not fresh or attended is None:
        yield
        return
    known, original = attended.repeat(fresh // len(attended), 1, 1), module.forward

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        if fresh == rows:
            return known, None
        out, weights = original(*_first(args, rows, fresh), **_first(kwargs, rows, fresh))
        return torch.cat([out, known]), weights

    with acting_as(module, forward):
        yield


def _first(value: Any, rows: int, without: int) -> Any:
    """Every tensor of [rows, …] in an argument, without its last rows."""
    if isinstance(value, Tensor):
        return value[: rows - without] if value.dim() and len(value) == rows else value
    if isinstance(value, tuple | list):
        return tuple(_first(v, rows, without) for v in value)
    if isinstance(value, dict):
        return {k: _first(v, rows, without) for k, v in value.items()}
    return value
