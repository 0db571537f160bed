"""Soft mask, the paper's future work: weights in [0, 1], forget-only neurons first. L layers."""

from __future__ import annotations

from typing import ClassVar

import torch

from simu.fields import Share, component
from simu.masks.critical import critical_neurons
from simu.masks.needed import needed
from simu.types import NeuronMask, NeuronScores, Scores


def soft_weights(forget: NeuronScores, retain: NeuronScores, t: float) -> NeuronMask:
    """float32 [L, units]: 1 on F \\ R; f / (f + r) < 1 on F ∩ R; 0 elsewhere.

    f and r are the scores relative to their layer's largest (f = Att_F / M_F, r = Att_R / M_R), both above t there: a
    shared neuron moves by the share of its influence that the forget set has, and every forget-only neuron moves more.
    """
    in_forget, in_retain = critical_neurons(forget, t), critical_neurons(retain, t)
    f = forget.double() / forget.double().amax(dim=1, keepdim=True)
    r = retain.double() / retain.double().amax(dim=1, keepdim=True)
    weights = in_forget.double()
    shared = in_forget & in_retain
    weights[shared] = (f / (f + r))[shared]
    return weights.to(torch.float32)


@component
class Soft:
    """Weights that scale the update of a row (θ ← θ + w·Δ): forget-only neurons in full, shared ones in part."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    t: Share = 0.3
    """Share of the layer's largest score that a neuron must exceed, for F and R alike."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """FloatTensor [L, units]; how many samples were summed cancels within a layer."""
        f, r = needed(forget, "forget", shape), needed(retain, "retain", shape)
        return soft_weights(f.values, r.values, self.t)
