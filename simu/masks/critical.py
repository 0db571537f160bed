"""Critical neurons, and the two masks that are sets of them (arXiv 2510.07822). L layers, D d_model."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch

from simu.types import NeuronMask, NeuronScores, UserError, require

log = logging.getLogger(__name__)


def critical_neurons(scores: NeuronScores, t: float) -> NeuronMask:
    """BoolTensor [L, D]: Att(l, k) > t·M_l, strictly, with M_l = max_k Att(l, k) of layer l.

    A layer with M_l ≤ 0 has no critical neuron, with a warning; t = 1 keeps none. The comparison is made in float64,
    so that t·M_l is not rounded to the scores' precision. Raises UserError for t outside [0, 1] and for scores that are
    not finite [L, D].
    """
    if not 0 <= t <= 1:
        raise UserError(f"t={t!r}: allowed is 0 ≤ t ≤ 1")
    if scores.ndim != 2:
        raise UserError(f"scores: shape {tuple(scores.shape)}; allowed is [layers, d_model]")
    if not torch.isfinite(scores).all():
        raise UserError("scores: some are not finite; allowed are finite numbers (was the attribution complete?)")
    exact = scores.double()
    largest = exact.amax(dim=1, keepdim=True)
    silent = (largest <= 0).flatten()
    if silent.any():
        layers = ", ".join(str(i) for i in silent.nonzero().flatten().tolist())
        log.warning("no critical neuron in layer(s) %s: no score there is positive", layers)
    return (exact > t * largest) & (largest > 0)


def present(scores: NeuronScores | None, which: str) -> NeuronScores:
    """The scores, or UserError if the caller has none of them."""
    if scores is None:
        raise UserError(f"mask: needs the {which} scores; allowed is an attribution of the {which} rows")
    return scores


@dataclass(frozen=True, kw_only=True)
class Dual:
    """F, the critical neurons of the forget set: what the paper's tables use."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    t: float = 0.3
    """Share of the layer's largest score that a neuron must exceed, 0 ≤ t ≤ 1 (1 keeps none)."""

    def __post_init__(self) -> None:
        require(0 <= self.t <= 1, "t", self.t, "0 ≤ t ≤ 1")

    def __call__(
        self,
        forget: NeuronScores | None,
        retain: NeuronScores | None,
        shape: tuple[int, int],
        *,
        counts: tuple[int, int] = (1, 1),
    ) -> NeuronMask:
        """BoolTensor [L, D] from the forget scores [L, D], sums over samples; `retain`, `counts` are not read."""
        return critical_neurons(present(forget, "forget"), self.t)


@dataclass(frozen=True, kw_only=True)
class ForgetOnly:
    """F \\ R: critical for the forget set and not for the retain set."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    t: float = 0.3
    """Share of the layer's largest score that a neuron must exceed, for F and R alike, 0 ≤ t ≤ 1."""

    def __post_init__(self) -> None:
        require(0 <= self.t <= 1, "t", self.t, "0 ≤ t ≤ 1")

    def __call__(
        self,
        forget: NeuronScores | None,
        retain: NeuronScores | None,
        shape: tuple[int, int],
        *,
        counts: tuple[int, int] = (1, 1),
    ) -> NeuronMask:
        """BoolTensor [L, D] from both sums of scores [L, D]; `counts` cancels within a layer and is not read."""
        f, r = (critical_neurons(present(s, n), self.t) for s, n in ((forget, "forget"), (retain, "retain")))
        return f & ~r
