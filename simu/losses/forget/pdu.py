"""PDU's forget loss: the logits become level, so that no token stands out."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from simu.fields import component
from simu.models.forward import by_chunks, labelled_logits, wide
from simu.models.reference import Reference
from simu.slots import Answers, Unit
from simu.types import Batch, Loss


def pdu(logits: Tensor) -> Tensor:
    """(max_v z(v) − mean_v z(v))² [N] of logits [N, V]: 0 where all are equal."""
    z = wide(logits)
    return (z.amax(-1) - z.mean(-1)).square()


@component
class PDU:
    """(max_v z − mean_v z)², z the logits where a token of answer or EOS is predicted, token mean.

    Its method moves λ as well: `simu.losses.primal_dual`.

    Source: Entesari et al. 2025, https://arxiv.org/abs/2506.05314; open-unlearning's PDU, which averages over
    prompt and padding positions too.
    """

    unit: ClassVar[Unit] = "token"
    answers: ClassVar[Answers] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        logits, _ = labelled_logits(model, batch)
        return Loss(by_chunks(pdu, logits).sum(), len(logits))
