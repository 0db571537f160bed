"""Preference optimisation by plain descent: the questions to forget are answered with "I don't know"."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from simu.fields import component
from simu.losses.logprobs import answer_loss
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


@component
class IDK:
    """CE(questions to forget with a refusal as the answer), token mean over answer and EOS.

    Source: "preference optimization" of Maini et al. 2024, https://arxiv.org/abs/2401.06121; open-unlearning's
    IdkNLL, SOUL's PO. The refusals are this project's own (`simu.data.refusals`).
    """

    unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "alternative"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
