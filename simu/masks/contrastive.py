"""Contrastive mask: critical on what forgetting needs beyond what retaining needs. L layers."""

from __future__ import annotations

from typing import ClassVar

from simu.fields import Share, component
from simu.masks.critical import critical_neurons
from simu.masks.needed import needed
from simu.types import NeuronMask, NeuronScores, Scores, UserError


def contrast(forget: Scores, retain: Scores) -> NeuronScores:
    """Att_F / |D_F| − Att_R / |D_R|, float64 [L, units], |D| the next-token samples that each sum is over.

    Samples, not rows: answers differ in length, and a set of long ones would weigh more for that alone.
    """
    counts = (forget.n_samples, retain.n_samples)
    if min(counts) < 1:
        raise UserError(f"contrastive mask: {counts} samples of forget and retain; allowed is at least one each")
    return forget.values.double() / forget.n_samples - retain.values.double() / retain.n_samples


@component
class Contrastive:
    """Critical on Att_F / |D_F| − Att_R / |D_R|. Forget and retain scores correlate at 0.99, so ordering by
    forget scores alone is barely specific to the forget set; their difference is."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    t: Share = 0.3
    """Share of the layer's largest difference that a neuron must exceed."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor [L, units]."""
        contrasted = contrast(needed(forget, "forget", shape), needed(retain, "retain", shape))
        return critical_neurons(contrasted, self.t)
