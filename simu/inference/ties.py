"""Greedy choices, and which of them were made by less than rounding may move."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simu.inference.modes import device_of

DOUBT = 128
"""A lead of at most DOUBT × eps × the largest |logit| may be rounding (measured in docs/evaluation_engine.md), …"""
DOUBT_TRIAL = 16
"""… and so may one of DOUBT_TRIAL times what two short rows differed by in a trial: deeper models round more."""
CHUNK_ELEMENTS = 2**24
"""Largest float32 copy of logits held at once, in elements (64 MiB)."""


def choose(logits: Tensor, doubt: float | None) -> tuple[list[int], list[bool]]:
    """The argmax of each row of logits [N, V], and whether it leads by at most `doubt` × the row's largest |logit|
    (None: never)."""
    chosen: list[int] = []
    close: list[bool] = []
    for part in logits.split(max(1, CHUNK_ELEMENTS // logits.shape[-1])):
        best = part.argmax(-1)
        chosen += best.tolist()
        if doubt is None:
            close += [False] * len(best)
            continue
        low, high = part.aminmax(dim=-1)
        second = part.scatter(-1, best.unsqueeze(-1), -torch.inf).amax(-1)
        close += (high - second <= doubt * torch.maximum(high.abs(), low.abs())).tolist()
    return chosen, close


def doubtful_lead(model: nn.Module, noise: float) -> float | None:
    """What `choose` takes as `doubt`; `noise`: how far a trial's logits were off, relative to the largest."""
    eps = _rounding(model)
    return None if eps is None else max(DOUBT * eps, DOUBT_TRIAL * noise)


def _rounding(model: nn.Module) -> float | None:
    """The eps of float32 or float64 arithmetic; None for half precision and TF32, whose greedy text is not defined
    beyond the shape of a batch."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float32 and device_of(model).type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return None
    return torch.finfo(dtype).eps if dtype in (torch.float32, torch.float64) else None
