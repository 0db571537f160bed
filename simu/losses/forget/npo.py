"""NPO: the answers to forget are the losing side of a preference that has no winner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss, row_log_probs
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class NPO:
    """L = −(2/β)·log σ(−β·(log P(answer) − log P₀(answer))) + λ·CE(retain), row mean, P₀ the untouched model's.

    Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868, Eq. 3; open-unlearning's NPO.
    """

    retain_weight: float
    """λ ≥ 0."""
    beta: float = 0.1
    """β > 0; towards 0 it becomes gradient ascent."""

    needs_reference: ClassVar[frozenset[str]] = frozenset({"forget"})
    unit: ClassVar[Unit] = "row"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")
        require(self.beta > 0, "beta", self.beta, "a number > 0")

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Each row's log P₀(answer): [1]."""
        return list(row_log_probs(model, batch).split(1))

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        ratios = row_log_probs(model, batch) - reference.values
        losses = -2 / self.beta * logsigmoid(-self.beta * ratios)
        return Loss(losses.sum(), len(losses))

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
