"""AltPO: another answer of the model's own is preferred to the one that is to be forgotten."""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor, nn

from simu.fields import Positive, between, component
from simu.losses.forget.dpo import dpo
from simu.losses.logprobs import row_log_probs
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


@component
class AltPO:
    """−(2/β)·log σ(β·(r(alternative) − r(answer))), row mean, r = log P − log P₀, P₀ the untouched model's.

    A row's alternatives are the untouched model's own (`simu.inference.departures`), one an epoch in turn.

    Source: Mekala et al. 2024, https://arxiv.org/abs/2409.13474; open-unlearning's AltPO. There the alternatives are
    sampled at temperature 1 from a chat model that is asked to change the facts of the answer.
    """

    beta: Positive = 0.1
    """β: how much a change of the log-ratio counts."""
    alternatives: Annotated[int, between(1, 1000)] = 5
    """Of each row."""
    max_new_tokens: Annotated[int, between(1, 1_048_576)] = 200
    """Tokens of an alternative behind the one that departs from the answer."""

    unit: ClassVar[Unit] = "row"
    answers: ClassVar[Answers] = "both"
    needs_reference: ClassVar[bool] = True

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """log P₀ of each answer, then of each alternative: [1]."""
        return list(row_log_probs(model, batch).split(1))

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        lose, win = (row_log_probs(model, batch) - reference.values).chunk(2)
        losses = dpo(win, lose, self.beta)
        return Loss(losses.sum(), len(losses))
