"""The arguments that the model itself gave a block, restricted to the shadow positions: masks and positions.

Shapes: B rows, T tokens, N shadow positions, R = streams · B.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from simu.attribution.engine.cache import ShadowCache
from simu.attribution.engine.capture import Clean
from simu.types import UserError

GATHERED = ("position_ids", "position_embeddings", "cache_position")  # arguments of a block that run over positions


class Arguments:
    """Of all blocks of one clean pass. What blocks share is restricted once for each number of rows."""

    def __init__(self, name: str, clean: Clean):
        self.name, self.clean, self.where, self.made = name, clean, clean.where, clean.restricted

    def of(self, layer: int, rows: int, cache: ShadowCache) -> dict[str, Any]:
        """The block's arguments by name, for R rows. Raises UserError for a tensor that it does not know."""
        restricted: dict[str, Any] = {}
        for name, value in self.clean.calls[layer].items():
            if isinstance(value, Cache):
                restricted[name] = cache
            elif name == "attention_mask":
                restricted[name] = self._mask(value, rows)
            elif name in GATHERED:
                restricted[name] = self._at_positions(value, rows)
            elif name == "use_cache":
                restricted[name] = False
            elif _holds_tensor(value):
                raise UserError(
                    f"{self.name}: layer {layer} takes a tensor {name!r} that cannot be restricted to the "
                    "predicting positions; allowed are masks and positions"
                )
            else:
                restricted[name] = value
        restricted.setdefault("attention_mask", self._mask(None, rows))
        return restricted

    def _at_positions(self, value: Any, rows: int) -> Any:
        """[1 or B, T, …] → [R, N, …], also inside tuples."""
        if isinstance(value, tuple | list):
            return tuple(self._at_positions(v, rows) for v in value)
        if not isinstance(value, Tensor):
            return value
        key = (id(value), rows)
        if key not in self.made and rows > len(self.where.positions):
            once = self._at_positions(value, len(self.where.positions))
            self.made[key] = once.repeat(rows // len(once), *[1] * (once.dim() - 1))
        elif key not in self.made:
            at = self.where.positions
            if value.dim() == 1:
                value = value[None]
            whole = value.expand(len(at), *value.shape[1:])
            index = at.reshape(*at.shape, *[1] * (value.dim() - 2)).expand(*at.shape, *value.shape[2:])
            self.made[key] = whole.gather(1, index)
        return self.made[key]

    def _mask(self, model_mask: Tensor | None, rows: int) -> Tensor:
        """The model's own [1 or B, heads or 1, T, T] mask (None: causal) turned into [R, heads or 1, N, T + N], or
        [B, heads or 1, N, T] where attention knows that own keys are seen.

        Windows, padding and additive biases come along by value. Raises UserError unless it is causal.
        """
        if self.clean.apart:
            rows = len(self.where.positions)
        key = (id(model_mask), rows)
        if key not in self.made:
            both = self._beside_own(self._checked(model_mask))
            B, _, T = self.where.clean_keys.shape
            self.made[key] = both[..., :T].contiguous() if self.clean.apart else both.repeat(rows // B, 1, 1, 1)
        return self.made[key]

    def _checked(self, model_mask: Tensor | None) -> Tensor:
        """[1 or B, heads or 1, T, T], bool or additive."""
        T, device = self.where.clean_keys.shape[2], self.where.positions.device
        if model_mask is None:
            full = torch.ones(1, 1, T, T, dtype=torch.bool, device=device).tril()
        elif model_mask.dim() == 4 and model_mask.shape[-2:] == (T, T):
            full = model_mask
        else:
            raise UserError(
                f"{self.name}: its attention mask has shape {tuple(model_mask.shape)}; allowed is [B, heads, {T}, {T}]"
            )
        allowed = full if full.dtype == torch.bool else full > self._lowest / 2
        if device.type != "meta" and bool(torch.triu(allowed, diagonal=1).any()):
            raise UserError(
                f"{self.name}: its attention looks ahead (a bidirectional mask); allowed are causal decoders"
            )
        return full

    def _beside_own(self, full: Tensor) -> Tensor:
        """Additive [B, heads or 1, N, T + N]: the columns of clean keys, then those of the shadow's own."""
        where, at = self.where, self.where.positions
        B, N, T = where.clean_keys.shape
        heads = full.shape[1]
        query = full.expand(B, heads, T, T).gather(2, at[:, None, :, None].expand(B, heads, N, T))
        own = query.gather(3, at[:, None, None, :].expand(B, heads, N, N))
        both, seen = torch.cat([query, own], dim=-1), torch.cat([where.clean_keys, where.own_keys], dim=-1)[:, None]
        if both.dtype == torch.bool:  # additive, once: SDPA would turn it into that at every call
            seen, both = seen & both, torch.zeros_like(both, dtype=self.clean.beta[0].dtype)
        return both.masked_fill(~seen, self._lowest)

    @property
    def _lowest(self) -> float:
        return torch.finfo(self.clean.beta[0].dtype).min


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, Tensor)
