"""WGA: gradient ascent that lets go of a token once it is unlikely."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor, nn

from simu.fields import between, component
from simu.losses.logprobs import token_log_probs
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def wga(log_probs: Tensor, beta: float) -> Tensor:
    """p^β·log p of log p [N]; the weight p^β has no gradient."""
    return log_probs.detach().exp() ** beta * log_probs


@component
class WGA:
    """w_i·log p_i, w_i = p_i^β without gradient, p_i = P(token i), token mean.

    Source: Wang et al. 2025, https://arxiv.org/abs/2502.19301; open-unlearning's WGA.
    """

    beta: Annotated[float, between(0, 1e3)] = 1.0
    """β; 0 is plain gradient ascent."""

    unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        losses = wga(token_log_probs(model, batch)[0], self.beta)
        return Loss(losses.sum(), len(losses))
