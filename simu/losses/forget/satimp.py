"""SatImp: gradient ascent on the tokens that are neither forgotten already nor sure beyond doubt."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor, nn

from simu.fields import between, component
from simu.losses.logprobs import token_log_probs
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def satimp(log_probs: Tensor, beta1: float, beta2: float) -> Tensor:
    """p^β₁·(1 − p)^β₂·log p of log p [N]; the weight has no gradient."""
    p = log_probs.detach().exp()
    return p**beta1 * (1 - p) ** beta2 * log_probs


@component
class SatImp:
    """w_i·log p_i, w_i = p_i^β₁·(1 − p_i)^β₂ without gradient, p_i = P(token i), token mean.

    Source: Yang et al. 2025, https://arxiv.org/abs/2505.11953; open-unlearning's SatImp.
    """

    beta1: Annotated[float, between(0, 1e3)] = 5.0
    """β₁, saturation: how fast a token that has become unlikely is let go."""
    beta2: Annotated[float, between(0, 1e3)] = 1.0
    """β₂, importance: how little a token that is nearly certain counts."""

    unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        losses = satimp(token_log_probs(model, batch)[0], self.beta1, self.beta2)
        return Loss(losses.sum(), len(losses))
