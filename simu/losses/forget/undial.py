"""UNDIAL: the model distils itself, with the logit of each token to forget pushed down."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from simu.fields import between, component
from simu.models.forward import by_chunks, hidden_by_row, logits_beside, wide
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def undial(own: Tensor, untouched: Tensor, target: Tensor, beta: float) -> Tensor:
    """−Σ_v q(v)·log p(v) [N], q = softmax(untouched − β·one-hot(target)), of logits [N, V] and tokens [N]."""
    down = wide(untouched).scatter_add(1, target[:, None], wide(untouched).new_full((len(target), 1), -beta))
    return cross_entropy(wide(own), down.softmax(-1), reduction="none")


@component
class UNDIAL:
    """−Σ_v q(v)·log p(v), q = softmax(z₀ − β·e_y), z₀ the untouched model's logits and y the token to forget; token
    mean over answer and EOS.

    Source: Dong et al. 2024, https://arxiv.org/abs/2402.10052; open-unlearning's UNDIAL, which averages over prompt and
    padding positions too.
    """

    beta: Annotated[float, between(0, 1e3)] = 10.0
    """β, in logits: how far the token is pushed down."""

    unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = True

    remember = staticmethod(hidden_by_row)

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        own, untouched, where = logits_beside(model, batch, reference)
        losses = by_chunks(partial(undial, beta=self.beta), own, untouched, where.target)
        return Loss(losses.sum(), len(losses))
