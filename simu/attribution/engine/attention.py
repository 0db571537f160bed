"""Attention of shadow queries: to the clean keys of their row, and each to its own key.

What scaled_dot_product_attention computes from clean ⊕ own keys under a [N, T + N] mask, without the N - 1 own keys
that a query must not see, without a copy of the clean keys for each stream, and without gradients for them.

Shapes: R = S streams · B rows, H heads, K key-value heads, G = H / K, N shadow positions, T tokens, E head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "simu_shadow"
LONGEST = 512
"""Tokens up to which probabilities are kept; beyond, fused attention over all keys takes less memory."""
_clean: ContextVar[tuple[Tensor, Tensor]] = ContextVar("clean keys and values")


class ShadowAttention(torch.autograd.Function):
    """softmax([q·K_cleanᵀ + mask, q·k_own]) over T + 1 keys; gradients for q, k and v only."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
    ) -> Tensor:
        """[R, N, H, E] from q [R, H, N, E], own k and v [R, K, N, E], clean keys and values [B, K, T, E] and an
        additive mask [B, 1 or H, N, T]."""
        B, K, T, E = keys.shape
        q, k, v = (_by_row(x, B, K) for x in (q, k, v))
        S, G, N = q.shape[2:5]
        p = q.new_empty(B * K, S * G * N, T + 1)
        torch.bmm((q * scale).reshape(B * K, -1, E), keys.reshape(B * K, T, E).transpose(1, 2), out=p[..., :T])
        masks = mask[:, :, None, None] if mask.shape[1] == 1 else mask.view(B, K, 1, G, N, T)
        p[..., :T].view(B, K, S, G, N, T).add_(masks)
        p[..., T].view(B, K, S, G, N).copy_((q * k).sum(-1)).mul_(scale)
        p = torch.softmax(p, dim=-1)
        out = torch.bmm(p[..., :T], values.reshape(B * K, T, E)).view(B, K, S, G, N, E)
        out.addcmul_(p[..., T].view(B, K, S, G, N, 1), v)
        ctx.save_for_backward(q, k, v, keys, values, p)
        ctx.scale = scale
        return out.permute(2, 0, 4, 1, 3, 5).reshape(S * B, N, K * G, E)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keys, values, p = ctx.saved_tensors
        B, K, T, E = keys.shape
        S, G, N = q.shape[2:5]
        g = grad.view(S, B, N, K, G, E).permute(1, 3, 0, 4, 2, 5).contiguous()
        dp = torch.empty_like(p)
        torch.bmm(g.view(B * K, -1, E), values.reshape(B * K, T, E).transpose(1, 2), out=dp[..., :T])
        dp[..., T].view(B, K, S, G, N).copy_((g * v).sum(-1))
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        own, weight = ds[..., T].view(B, K, S, G, N, 1), p[..., T].view(B, K, S, G, N, 1)
        dq = torch.bmm(ds[..., :T], keys.reshape(B * K, T, E)).view(B, K, S, G, N, E)
        dq.addcmul_(own, k).mul_(ctx.scale)
        dk = (own * q).sum(3, keepdim=True).mul_(ctx.scale)
        dv = (weight * g).sum(3, keepdim=True)
        return *(_by_stream(x) for x in (dq, dk, dv)), None, None, None, None


def _by_row(x: Tensor, B: int, K: int) -> Tensor:
    """[S·B, K·G, N, E] → [B, K, S, G, N, E]."""
    return x.unflatten(1, (K, -1)).unflatten(0, (-1, B)).permute(1, 2, 0, 3, 4, 5)


def _by_stream(x: Tensor) -> Tensor:
    """[B, K, S, G, N, E] → [S·B, K·G, N, E]."""
    return x.permute(2, 0, 1, 3, 4, 5).flatten(2, 3).flatten(0, 1)


@contextmanager
def to_clean(attention: nn.Module, keys: Tensor, values: Tensor) -> Iterator[None]:
    """While open, the module attends to these clean keys and values [B, K, T, E] besides each query's own."""
    config: Any = attention.config
    before, token = config._attn_implementation, _clean.set((keys, values))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _clean.reset(token)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers' SDPA takes; the engine checks each run against the model's own output."""
    assert position_bias is None
    keys, values = _clean.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = ShadowAttention.apply(query, key, value, keys, values, attention_mask, scale)
    return out, None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
