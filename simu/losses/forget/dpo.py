"""DPO: "I don't know" is preferred to the answer that is to be forgotten."""

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
class DPO:
    """L = −(2/β)·log σ(β·(r(refusal) − r(answer))) + λ·CE(retain), row mean, r = log P − log P₀ (P₀ untouched).

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, Eq. 7, with the factor 2 of open-unlearning's DPO
    (its IdkDPO). The refusals are this project's own (`refusals.py`).
    """

    retain_weight: float
    """λ ≥ 0."""
    beta: float = 0.1
    """β > 0: how much a change of the log-ratio counts."""

    needs_reference: ClassVar[frozenset[str]] = frozenset({"forget"})
    unit: ClassVar[Unit] = "row"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "both"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")
        require(self.beta > 0, "beta", self.beta, "a number > 0")

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Each row's log P₀: [1]."""
        return list(row_log_probs(model, batch).split(1))

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        lose, win = (row_log_probs(model, batch) - reference.values).chunk(2)
        losses = -2 / self.beta * logsigmoid(self.beta * (win - lose))
        return Loss(losses.sum(), len(losses))

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
