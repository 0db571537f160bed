"""What stands in for the key-value cache of one block call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ShadowCache:
    """Clean keys beside the shadow's own; stores nothing.

    With `apart` it gives the shadow's own alone, for an attention that knows the clean ones (attention.py).
    """

    def __init__(self, keys: Tensor, values: Tensor, apart: bool):
        self.keys, self.values, self.apart, self.asked = keys, values, apart, False

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.asked = True
        if self.apart:
            return keys, values
        return _beside(self.keys, keys), _beside(self.values, values)


def _beside(clean: Tensor, own: Tensor) -> Tensor:
    """[B, K, T, E] and [S·B, K, N, E] → [S·B, K, T + N, E], the clean ones repeated for each of S streams."""
    streams = own.shape[0] // clean.shape[0]
    by_stream = own.unflatten(0, (streams, clean.shape[0]))
    return torch.cat([clean.expand(streams, *clean.shape), by_stream], dim=-2).flatten(0, 1)
