"""Critical neurons, and the two masks that are sets of them (arXiv 2510.07822). L layers."""

from __future__ import annotations

import logging
from typing import ClassVar

from simu.fields import Share, component
from simu.masks.needed import finite, needed
from simu.types import NeuronMask, NeuronScores, Scores, UserError

log = logging.getLogger(__name__)


def critical_neurons(scores: NeuronScores, t: float) -> NeuronMask:
    """BoolTensor [L, units]: Att(l, k) > t·M_l, strictly, with M_l = max_k Att(l, k) of layer l.

    A layer with M_l ≤ 0 has no critical neuron, with a warning; t = 1 keeps none. The comparison is made in float64,
    so that t·M_l is not rounded to the scores' precision. Raises UserError for t outside [0, 1] and for scores that are
    not finite [L, units].
    """
    if not 0 <= t <= 1:
        raise UserError(f"t={t!r}: allowed is 0 ≤ t ≤ 1")
    exact = finite(scores).double()
    largest = exact.amax(dim=1, keepdim=True)
    silent = (largest <= 0).flatten()
    if silent.any():
        layers = ", ".join(str(i) for i in silent.nonzero().flatten().tolist())
        log.warning("no critical neuron in layer(s) %s: no score there is positive", layers)
    return (exact > t * largest) & (largest > 0)


@component
class Dual:
    """F, the critical neurons of the forget set: what the paper's tables use."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    t: Share = 0.3
    """Share of the layer's largest score that a neuron must exceed (1 keeps none)."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor [L, units]; `retain` is not read."""
        return critical_neurons(needed(forget, "forget", shape).values, self.t)


@component
class ForgetOnly:
    """F \\ R: critical for the forget set and not for the retain set."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    t: Share = 0.3
    """Share of the layer's largest score that a neuron must exceed, for F and R alike."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor [L, units]; how many samples were summed cancels within a layer."""
        in_forget = critical_neurons(needed(forget, "forget", shape).values, self.t)
        return in_forget & ~critical_neurons(needed(retain, "retain", shape).values, self.t)
