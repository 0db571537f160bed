"""Random directions that are made again instead of being kept: a function of seed, step and number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

BLOCK = 2**20
"""Elements drawn at a time: no tensor as large as the weights is made."""


def generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose state is a digest of `key`."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def pieces(parameters: Iterable[Tensor]) -> Iterator[Tensor]:
    """Flat pieces that share the parameters' memory, in order, BLOCK elements at most."""
    for parameter in parameters:
        whole = parameter.detach()
        yield from whole.view(-1).split(BLOCK) if whole.is_contiguous() else (whole,)


def add_normal(parameters: Sequence[Tensor], scale: float, *key: int) -> None:
    """p ← p + scale · z in place, z standard normal in float32 and the same for the same `key`."""
    for p, z in zip(pieces(parameters), normal(parameters, *key), strict=True):
        p.add_(z.to(p.dtype), alpha=scale)


def normal(parameters: Sequence[Tensor], *key: int) -> Iterator[Tensor]:
    """z ~ N(0, 1), float32, a piece at a time."""
    source = None
    for p in pieces(parameters):
        source = source or generator(p.device, *key)
        yield torch.randn(p.shape, generator=source, device=p.device)


def norm_of_normal(parameters: Sequence[Tensor], *key: int) -> float:
    """‖z‖₂ of that draw, over all parameters."""
    return float(sum(float(z.double().square().sum()) for z in normal(parameters, *key))) ** 0.5
