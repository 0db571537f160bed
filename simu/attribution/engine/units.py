"""What a neuron is to the engine, which itself knows the down-projection's output alone: y = W·h + b.

A row's path scales y: a = f·y. That of hidden neurons scales what the down-projection reads, f·h, whose output, being
linear, is b + f·(y − b): one stream serves all of them, and ∂L/∂h = Wᵀ·∂L/∂y.

Shapes: B rows, N shadow positions, D d_model, F d_ff.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from simu.attribution.engine.capture import Clean, Dissected, precise
from simu.models.anatomy import by_unit
from simu.types import NeuronUnit


def origin(subject: Dissected, layer: int, unit: NeuronUnit) -> Tensor | None:
    """What the down-projection gives where the path begins: its bias [D] for hidden neurons; None: nothing."""
    module: Any = subject.parts.down_projections[layer]
    return module.bias if unit == "hidden" else None


def neuron_scores(subject: Dissected, clean: Clean, layer: int, gradient: Tensor) -> Tensor:
    """Each neuron's value times the loss's gradient with respect to it: [B, N, D] for rows, [B, N, F] for hidden ones.

    gradient: [B, N, D], with respect to the down-projection's output; float32 or 64, as is the result.
    """
    if clean.unit == "row":
        beta = clean.beta[layer]
        return beta.to(precise(beta.dtype)) * gradient
    module: Any = subject.parts.down_projections[layer]
    read = clean.read[layer].to(gradient.dtype)
    return read * (gradient @ by_unit(module, module.weight, "row").to(gradient.dtype))
