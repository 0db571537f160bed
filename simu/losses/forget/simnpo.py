"""SimNPO: NPO without a reference model, and with the answer's length divided out."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from simu.fields import Positive, between, component
from simu.losses.logprobs import row_means, token_log_probs
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def simnpo(nll: Tensor, beta: float, delta: float) -> Tensor:
    """−(2/β)·log σ(β·(nll − δ)) of each answer's mean negative log-likelihood [B]."""
    return -2 / beta * logsigmoid(beta * (nll - delta))


@component
class SimNPO:
    """−(2/β)·log σ(β·(−log P(answer)/n − δ)), row mean, n the answer's tokens with EOS.

    Source: Fan et al. 2024, https://arxiv.org/abs/2410.07163; open-unlearning's SimNPO.
    """

    beta: Positive = 4.5
    """β."""
    delta: Annotated[float, between(-1e3, 1e3)] = 0.0
    """δ, nats a token: the loss an answer has to exceed."""

    unit: ClassVar[Unit] = "row"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        log_probs, where = token_log_probs(model, batch)
        losses = simnpo(-row_means(log_probs, where, len(batch["labels"])), self.beta, self.delta)
        return Loss(losses.sum(), len(losses))
