"""Gradient ascent on what is to be forgotten, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss
from simu.models.reference import Reference
from simu.types import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class GradientAscent:
    """L = −CE(forget), token mean over answer and EOS.

    Source: Jang et al. 2022, https://arxiv.org/abs/2210.01504; open-unlearning's GradAscent.
    """

    retain_weight: float = 0.0
    """Not read: there is no retain side."""

    needs_reference: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        loss = answer_loss(model, batch)
        return Loss(-loss.total, loss.count)

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> None:
        return None
