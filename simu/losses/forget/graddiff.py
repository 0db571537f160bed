"""GradDiff: gradient ascent on what is to be forgotten, descent on what is to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class GradDiff:
    """L = −CE(forget) + λ·CE(retain), token mean over answer and EOS.

    Source: Liu et al. 2022, https://arxiv.org/abs/2203.12817; λ on the retain side as in SOUL,
    https://arxiv.org/abs/2404.18239.
    """

    retain_weight: float
    """λ ≥ 0."""

    needs_reference: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        loss = answer_loss(model, batch)
        return Loss(-loss.total, loss.count)

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
