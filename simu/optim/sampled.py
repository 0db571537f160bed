"""The loss on labels that the model itself samples, for curvature estimates (arXiv 2305.14342, Algorithm 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sampled_nll(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Σ −log p(ŷ), labels ŷ drawn from the model's own logits [N, V] (for `hessian_interval`; arXiv 2305.14342)."""
    with torch.no_grad():
        labels = torch.multinomial(logits.float().softmax(-1), 1, generator=generator).squeeze(1)
    return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
