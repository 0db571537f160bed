"""Attention over clean keys and one own key equals SDPA over all keys under the [N, T + N] mask."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from simu.attribution.engine.attention import ShadowAttention


def by_sdpa(q, k, v, keys, values, mask, scale):
    streams, heads = len(q) // len(keys), q.shape[1]
    group, n = heads // keys.shape[1], q.shape[2]
    both_k, both_v = (
        torch.cat([clean.repeat(streams, 1, 1, 1), own], dim=2).repeat_interleave(group, dim=1)
        for clean, own in ((keys, k), (values, v))
    )
    own_mask = torch.zeros(n, n, dtype=q.dtype).masked_fill(~torch.eye(n, dtype=torch.bool), -torch.inf)
    own_mask = own_mask.expand(len(keys), mask.shape[1], n, n)
    whole = torch.cat([mask, own_mask], dim=-1).repeat(streams, 1, 1, 1)
    return scaled_dot_product_attention(q, both_k, both_v, attn_mask=whole, scale=scale).transpose(1, 2)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("by_head", [False, True])
def test_output_and_gradients(heads, by_head):
    generator = torch.Generator().manual_seed(0)
    streams, rows, n, t, size = 3, 2, 5, 7, 4

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    q = random(streams * rows, heads[0], n, size).requires_grad_()
    k, v = (random(streams * rows, heads[1], n, size).requires_grad_() for _ in range(2))
    keys, values = random(rows, heads[1], t, size), random(rows, heads[1], t, size)
    mask = random(rows, heads[0] if by_head else 1, n, t)
    hidden = torch.rand(rows, 1, n, t, generator=generator) < 0.4
    hidden[0, 0, 0] = True  # a query that sees no clean key at all
    mask = mask.masked_fill(hidden, torch.finfo(torch.float64).min)
    results = []
    for attend in (ShadowAttention.apply, by_sdpa):
        out = attend(q, k, v, keys, values, mask, 0.3)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (q, k, v))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
