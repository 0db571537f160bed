"""CE-U: the model's own distribution without the token to forget becomes its target."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from simu.fields import component
from simu.models.forward import by_chunks, labelled_logits, wide
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def ceu(logits: Tensor, target: Tensor) -> Tensor:
    """−Σ_v q(v)·log p(v) [N], q = softmax of the logits [N, V] with the target's at −∞, without gradient."""
    without = wide(logits.detach()).scatter(1, target[:, None], -torch.inf)
    return cross_entropy(wide(logits), without.softmax(-1), reduction="none")


@component
class CEU:
    """−Σ_v q(v)·log p(v), q the model's own distribution with the token to forget left out and without gradient; mean
    over answer and EOS but each row's first token, where the question still decides how an answer begins.

    Source: Yang 2025, https://arxiv.org/abs/2503.01224; open-unlearning's CEU with ignore_first_n_answer_tokens=1.
    """

    unit: ClassVar[Unit] = "later_token"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        logits, where = labelled_logits(model, batch)
        later = where.row[1:] == where.row[:-1]
        return Loss(by_chunks(ceu, logits, where.target)[1:][later].sum(), int(later.sum()))
