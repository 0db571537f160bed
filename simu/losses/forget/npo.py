"""NPO: the answers to forget are the losing side of a preference that has no winner."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from simu.fields import Positive, component
from simu.losses.logprobs import row_log_probs
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def npo(log_ratios: Tensor, beta: float) -> Tensor:
    """−(2/β)·log σ(−β·r) of r = log P − log P₀ [B], P₀ the untouched model's."""
    return -2 / beta * logsigmoid(-beta * log_ratios)


@component
class NPO:
    """−(2/β)·log σ(−β·(log P(answer) − log P₀(answer))), row mean, P₀ the untouched model's.

    Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868, Eq. 3; open-unlearning's NPO.
    """

    beta: Positive = 0.1
    """β; towards 0 it becomes gradient ascent."""

    unit: ClassVar[Unit] = "row"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = True

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Each row's log P₀(answer): [1]."""
        return list(row_log_probs(model, batch).split(1))

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        losses = npo(row_log_probs(model, batch) - reference.values, self.beta)
        return Loss(losses.sum(), len(losses))
