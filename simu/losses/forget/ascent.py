"""Gradient ascent on the answers to forget: with `ce` on the rows to keep it is GradDiff, with `kl` its KL form."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from simu.fields import component
from simu.losses.logprobs import token_log_probs
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def ascent(model: nn.Module, batch: Batch) -> Loss:
    """−CE of answer and EOS: Σ log P over the labelled tokens, and how many they are."""
    log_probs, _ = token_log_probs(model, batch)
    return Loss(log_probs.sum(), len(log_probs))


@component
class Ascent:
    """−CE(answer and EOS), token mean.

    Source: Jang et al. 2022, https://arxiv.org/abs/2210.01504 (alone); Liu et al. 2022,
    https://arxiv.org/abs/2203.12817 (GradDiff); open-unlearning's GradAscent and GradDiff.
    """

    unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return ascent(model, batch)
