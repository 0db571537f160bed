"""Fine-tuning: plain descent on one set. The target stage teaches a model with it what is later unlearnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss
from simu.models.reference import Reference
from simu.types import Batch, Loss


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """L = CE(rows), token mean over answer and EOS. There is no retain side."""

    retain_weight: float = 0.0
    """Not read: there is no retain side."""

    needs_reference: ClassVar[frozenset[str]] = frozenset()
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> None:
        return None
