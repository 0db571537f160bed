"""Preference optimisation by plain descent: the questions to forget are answered with "I don't know"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class IDK:
    """L = CE(forget questions with a refusal as the answer) + λ·CE(retain), token means over answer and EOS.

    Source: "preference optimization" of Maini et al. 2024, https://arxiv.org/abs/2401.06121; open-unlearning's
    IdkNLL, SOUL's PO. The refusals are this project's own (`refusals.py`).
    """

    retain_weight: float
    """λ ≥ 0."""

    needs_reference: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "alternative"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
