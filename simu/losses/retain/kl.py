"""GradDiff whose retain side holds the model's whole distribution to what it was, not to the one right token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import kl_div

from simu.losses import Answers, Unit
from simu.losses.logprobs import answer_loss
from simu.models.forward import by_chunks, labelled_hidden, logits_beside, wide
from simu.models.reference import Reference
from simu.types import Batch, Loss, require


@dataclass(frozen=True, kw_only=True)
class GradDiffKL:
    """L = −CE(forget) + λ·KL(retain), token means over answer and EOS, with

        KL = Σ_v p₀(v)·(log p₀(v) − log p(v)),   p₀ the untouched model's distribution at that position.

    Source: Maini et al. 2024, https://arxiv.org/abs/2401.06121; open-unlearning's GradDiff with retain_loss_type KL,
    which averages over prompt and padding positions too.
    """

    retain_weight: float
    """λ ≥ 0."""

    needs_reference: ClassVar[frozenset[str]] = frozenset({"retain"})
    unit: ClassVar[Unit] = "token"
    retain_unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"

    def __post_init__(self) -> None:
        require(self.retain_weight >= 0, "retain_weight", self.retain_weight, "a number ≥ 0")

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """The hidden states before the head at each row's labelled positions: [n, D]."""
        hidden, where = labelled_hidden(model, batch)
        return list(hidden.split(where.counts(len(batch["labels"]))))

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        loss = answer_loss(model, batch)
        return Loss(-loss.total, loss.count)

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        own, untouched, _ = logits_beside(model, batch, reference)
        divergence = by_chunks(kl, own, untouched)
        return Loss(divergence.sum(), len(divergence))


def kl(own: Tensor, untouched: Tensor) -> Tensor:
    """KL(untouched ‖ own) [N] of logits [N, V]."""
    p, q = wide(untouched).log_softmax(-1), wide(own).log_softmax(-1)
    return kl_div(q, p, reduction="none", log_target=True).sum(-1)
