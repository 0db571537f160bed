"""SatImp: gradient ascent on the tokens that are neither forgotten already nor sure beyond doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss, token_log_probs
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class SatImp:
    """L = mean_i w_i·log p_i + λ·CE(retain), w_i = p_i^β₁·(1 − p_i)^β₂ without gradient, p_i = P(token i), token mean.

    Source: Yang et al. 2025, https://arxiv.org/abs/2505.11953; open-unlearning's SatImp.
    """

    retain_weight: float
    """λ ≥ 0."""
    beta1: float = 5.0
    """β₁ ≥ 0, saturation: how fast a token that has become unlikely is let go."""
    beta2: float = 1.0
    """β₂ ≥ 0, importance: how little a token that is nearly certain counts."""

    needs_reference: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")
        require(self.beta1 >= 0, "beta1", self.beta1, "a number ≥ 0")
        require(self.beta2 >= 0, "beta2", self.beta2, "a number ≥ 0")

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        log_probs, _ = token_log_probs(model, batch)
        p = log_probs.detach().exp()
        return Loss((p**self.beta1 * (1 - p) ** self.beta2 * log_probs).sum(), len(log_probs))

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
