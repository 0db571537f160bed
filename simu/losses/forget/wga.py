"""WGA: gradient ascent that lets go of a token once it is unlikely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss, token_log_probs
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class WGA:
    """L = mean_i w_i·log p_i + λ·CE(retain), w_i = p_i^β without gradient, p_i = P(token i), token mean.

    Source: Wang et al. 2025, https://arxiv.org/abs/2502.19301; open-unlearning's WGA.
    """

    retain_weight: float
    """λ ≥ 0."""
    beta: float = 1.0
    """β ≥ 0; 0 is plain gradient ascent."""

    needs_reference: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")
        require(self.beta >= 0, "beta", self.beta, "a number ≥ 0")

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        log_probs, _ = token_log_probs(model, batch)
        weights = log_probs.detach().exp() ** self.beta
        return Loss((weights * log_probs).sum(), len(log_probs))

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
