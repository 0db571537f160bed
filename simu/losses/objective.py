"""The objective of a training step: L = γ·forget + λ·retain, two losses chosen apart.

graddiff = ascent + ce,   ga = ascent + none,   kl = ascent + kl,   rmu = rmu + hidden;   the others take ce.
Each term is Σ total / Σ count over the step's rows, whatever the micro-batches (`simu.gradients`).
"""

from __future__ import annotations

from simu.fields import Weight, component
from simu.losses.retain.ce import CE
from simu.losses.retain.none import NoRetain
from simu.slots import ForgetLoss, RetainLoss


@component
class Objective:
    """γ·forget + λ·retain, minimised as it stands."""

    forget: ForgetLoss
    """On the rows to forget."""
    retain: RetainLoss
    """On the rows to keep."""
    forget_weight: Weight = 1.0
    """γ."""
    retain_weight: Weight
    """λ; not read where `retain` reads no rows."""


def teach() -> Objective:
    """CE on the given rows and nothing else: fine-tuning, what a target is made and relearning is done with."""
    return Objective(forget=CE(), retain=NoRetain(), retain_weight=0.0)
