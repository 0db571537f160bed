"""Cross-entropy: the answers to keep stay likely. It also teaches, as the one term of `simu.losses.objective.teach`."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from simu.fields import component
from simu.losses.logprobs import answer_loss
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


@component
class CE:
    """CE(answer and EOS), token mean."""

    unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"
    reads_rows: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
