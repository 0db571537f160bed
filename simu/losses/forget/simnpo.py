"""SimNPO: NPO without a reference model, and with the answer's length divided out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.functional import logsigmoid

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss, row_sums, token_log_probs
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class SimNPO:
    """L = −(2/β)·log σ(β·(−log P(answer)/n − δ)) + λ·CE(retain), row mean, n the answer's tokens with EOS.

    Source: Fan et al. 2024, https://arxiv.org/abs/2410.07163; open-unlearning's SimNPO.
    """

    retain_weight: float
    """λ ≥ 0."""
    beta: float = 4.5
    """β > 0."""
    delta: float = 0.0
    """δ, nats a token: the loss an answer has to exceed."""

    needs_reference: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "row"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")
        require(self.beta > 0, "beta", self.beta, "a number > 0")

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        log_probs, where = token_log_probs(model, batch)
        rows = len(batch["labels"])
        lengths = row_sums(log_probs.new_ones(len(log_probs)), where, rows)
        nll = -row_sums(log_probs, where, rows) / lengths
        losses = -2 / self.beta * logsigmoid(self.beta * (nll - self.delta))
        return Loss(losses.sum(), rows)

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
