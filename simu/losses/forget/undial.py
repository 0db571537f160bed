"""UNDIAL: the model distils itself, with the logit of each token to forget pushed down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss
from simu.models.forward import by_chunks, labelled_hidden, logits_beside, wide
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class UNDIAL:
    """L = −Σ_v q(v)·log p(v) + λ·CE(retain), q = softmax(z₀ − β·e_y), z₀ the untouched model's logits and y the token
    to forget; token mean over answer and EOS.

    Source: Dong et al. 2024, https://arxiv.org/abs/2402.10052; open-unlearning's UNDIAL, which averages over prompt and
    padding positions too.
    """

    retain_weight: float
    """λ ≥ 0."""
    beta: float = 10.0
    """β ≥ 0, in logits: how far the token is pushed down."""

    needs_reference: ClassVar[frozenset[str]] = frozenset({"forget"})
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")
        require(self.beta >= 0, "beta", self.beta, "a number ≥ 0")

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """The hidden states before the head at each row's labelled positions: [n, D]."""
        hidden, where = labelled_hidden(model, batch)
        return list(hidden.split(where.counts(len(batch["labels"]))))

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        own, untouched, where = logits_beside(model, batch, reference)

        def distance(own: Tensor, untouched: Tensor, target: Tensor) -> Tensor:
            down = wide(untouched).scatter_add(
                1, target[:, None], wide(untouched).new_full((len(target), 1), -self.beta)
            )
            return cross_entropy(wide(own), down.softmax(-1), reduction="none")

        losses = by_chunks(distance, own, untouched, where.target)
        return Loss(losses.sum(), len(losses))

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)
