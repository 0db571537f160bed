"""How large the gradient of each row's loss is: one forward and one backward a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from simu.data.batching import Encoded, collate
from simu.inference.modes import device_of, evaluating
from simu.models.forward import labelled_logits
from simu.progress import track


def gradient_norms(model: nn.Module, rows: Sequence[Encoded], pad_id: int) -> list[float]:
    """Mean over parameters of the 2-norm of ∇ mean CE, row by row, ≥ 0; 0 for a row without an answer token.

    Parameters' gradients and requires_grad are left as they were found.
    """
    parameters = list(model.parameters())
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(p.is_floating_point())
    try:
        trained = [p for p in parameters if p.requires_grad]
        with evaluating(model):
            return [_norm(model, row, trained, pad_id) for row in track(rows, "gradient norms", unit="row")]
    finally:
        for p, flag in zip(parameters, before, strict=True):
            p.requires_grad_(flag)


def _norm(model: nn.Module, row: Encoded, parameters: list[nn.Parameter], pad_id: int) -> float:
    if not row.answer:
        return 0.0
    with torch.enable_grad():
        logits, where = labelled_logits(model, collate([row], pad_id, device_of(model)))
        ce = nn.functional.cross_entropy(logits.float(), where.target)
        gradients = torch.autograd.grad(ce, parameters, allow_unused=True)
    norms = [g.detach().float().norm() for g in gradients if g is not None]
    return float(torch.stack(norms).mean())
