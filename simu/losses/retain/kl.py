"""KL: the model's whole distribution is held to what it was, not to the one right token."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import kl_div

from simu.fields import component
from simu.models.forward import by_chunks, hidden_by_row, logits_beside, wide
from simu.models.reference import Reference
from simu.slots import Unit
from simu.types import Batch, Loss


def kl(own: Tensor, untouched: Tensor) -> Tensor:
    """KL(untouched ‖ own) = Σ_v p₀(v)·(log p₀(v) − log p(v)) [N] of logits [N, V]."""
    p, q = wide(untouched).log_softmax(-1), wide(own).log_softmax(-1)
    return kl_div(q, p, reduction="none", log_target=True).sum(-1)


@component
class KL:
    """KL(untouched ‖ model), mean over answer tokens and EOS.

    Source: Maini et al. 2024, https://arxiv.org/abs/2401.06121; open-unlearning's retain_loss_type KL, which averages
    over prompt and padding positions too.
    """

    unit: ClassVar[Unit] = "token"
    reads_rows: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    remember = staticmethod(hidden_by_row)

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        assert reference is not None
        own, untouched, _ = logits_beside(model, batch, reference)
        divergence = by_chunks(kl, own, untouched)
        return Loss(divergence.sum(), len(divergence))
