"""An objective whose λ is a dual variable: the price of a retain loss above what is tolerated, raised while it is."""

from __future__ import annotations

from typing import Annotated

from simu.fields import Number, Weight, between, component
from simu.slots import ForgetLoss, RetainLoss


def dual_ascent(weight: float, retain_loss: float, step: float, tolerance: float) -> float:
    """max(0, λ + η·(L_r − ε))."""
    return max(0.0, weight + step * (retain_loss - tolerance))


@component
class PrimalDual:
    """γ·forget + λ·retain, minimised as it stands; after each step λ ← max(0, λ + η·(L_r − ε)), L_r that step's retain
    loss: gradient ascent on the dual of "lower the forget loss while the retain loss is at most ε".

    Source: Entesari et al. 2025, https://arxiv.org/abs/2506.05314; open-unlearning's PDU with dual_update_upon=step.
    """

    forget: ForgetLoss
    """On the rows to forget."""
    retain: RetainLoss
    """On the rows to keep; with one that reads no rows λ stays."""
    forget_weight: Weight = 1.0
    """γ."""
    retain_weight: Weight
    """λ of the first step."""
    dual_step: Weight = 5.0
    """η: how fast λ follows."""
    tolerance: Annotated[float, between(0, 1e9)] = 0.3
    """ε: the retain loss that is accepted, in its own unit (CE: nats a token)."""
    dual_warmup_epochs: Number = 0
    """Passes over the forget rows before λ moves."""

    def next_retain_weight(self, weight: float, retain_loss: float, epoch: int) -> float:
        """λ of the step after one that had `weight` and gave `retain_loss`, in `epoch` (from 1)."""
        if epoch <= self.dual_warmup_epochs:
            return weight
        return dual_ascent(weight, retain_loss, self.dual_step, self.tolerance)
