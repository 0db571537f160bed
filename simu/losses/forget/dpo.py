"""DPO: "I don't know" is preferred to the answer that is to be forgotten."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from simu.fields import Positive, component
from simu.losses.logprobs import row_log_probs
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def dpo(win: Tensor, lose: Tensor, beta: float) -> Tensor:
    """−(2/β)·log σ(β·(win − lose)) of log-ratios log P − log P₀ [B], P₀ the untouched model's."""
    return -2 / beta * logsigmoid(beta * (win - lose))


@component
class DPO:
    """−(2/β)·log σ(β·(r(refusal) − r(answer))), row mean, r = log P − log P₀, P₀ the untouched model's.

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, Eq. 7, with the factor 2 of open-unlearning's DPO
    (its IdkDPO). The refusals are this project's own (`simu.data.refusals`).
    """

    beta: Positive = 0.1
    """β: how much a change of the log-ratio counts."""

    unit: ClassVar[Unit] = "row"
    answers: ClassVar[Answers] = "both"
    needs_reference: ClassVar[bool] = True

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """log P₀ of each answer, then of each refusal: [1]."""
        return list(row_log_probs(model, batch).split(1))

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        lose, win = (row_log_probs(model, batch) - reference.values).chunk(2)
        losses = dpo(win, lose, self.beta)
        return Loss(losses.sum(), len(losses))
