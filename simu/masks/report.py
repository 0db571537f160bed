"""What masks have in common, and how far attributions agree: mask_report.json. L layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from simu.types import NeuronMask, NeuronScores, NeuronUnit, UserError


def mask_report(
    masks: Mapping[str, NeuronMask],
    scores: Mapping[str, NeuronScores] | None = None,
    samples: Mapping[str, int] | None = None,
    completeness: Mapping[str, Tensor | None] | None = None,
    unit: NeuronUnit = "row",
) -> dict[str, object]:
    """A JSON-able dict on named masks and named scores, all [L, units] (a soft neuron counts where its weight is > 0).

    unit: as given, what a neuron is: `row` of the down-projection, or `hidden`, its column.
    masks[name]: selected, total, fraction, weight (Σ of weights), per_layer counts.
    pairs["a & b"]: overlap (|a ∩ b|), jaccard (|a ∩ b| / |a ∪ b|; 1 for two empty masks), per_layer overlap.
    spearman["a & b"]: rank correlation over all neurons, and mean over layers; null where a side is constant.
    samples: as given, {"forget": …, "retain": …}: the next-token samples that the scores were summed over.
    completeness: by side and layer, how far the scores are from what they should add up to; a side without is left out.
    Raises UserError where shapes differ.
    """
    scores = scores or {}
    shapes = {tuple(x.shape) for x in [*masks.values(), *scores.values()]}
    if len(shapes) > 1:
        raise UserError(f"mask_report: shapes {sorted(shapes)} differ; allowed is one [layers, units]")
    return {
        "unit": unit,
        "masks": {name: _counts(mask) for name, mask in masks.items()},
        "pairs": {f"{a} & {b}": _overlap(masks[a], masks[b]) for a, b in combinations(masks, 2)},
        "spearman": {f"{a} & {b}": _agreement(scores[a], scores[b]) for a, b in combinations(scores, 2)},
        "samples": dict(samples or {}),
        "completeness": {side: finite(off) for side, off in (completeness or {}).items() if off is not None},
    }


def finite(values: Tensor) -> list[float | None]:
    """Of a vector, for JSON, which knows neither infinity nor NaN: null there."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _counts(mask: NeuronMask) -> dict[str, object]:
    chosen = mask > 0
    return {
        "selected": int(chosen.sum()),
        "total": chosen.numel(),
        "fraction": int(chosen.sum()) / chosen.numel(),
        "weight": float(mask.double().sum()),
        "per_layer": chosen.sum(dim=1).tolist(),
    }


def _overlap(a: NeuronMask, b: NeuronMask) -> dict[str, object]:
    both, either = (a > 0) & (b > 0), (a > 0) | (b > 0)
    union = int(either.sum())
    return {
        "overlap": int(both.sum()),
        "jaccard": int(both.sum()) / union if union else 1.0,
        "per_layer": both.sum(dim=1).tolist(),
    }


def _agreement(a: NeuronScores, b: NeuronScores) -> dict[str, float | None]:
    layers = [_spearman(x, y) for x, y in zip(a, b, strict=True)]
    known = [r for r in layers if r is not None]
    return {"all": _spearman(a, b), "mean_of_layers": float(np.mean(known)) if known else None}


def _spearman(a: NeuronScores, b: NeuronScores) -> float | None:
    x, y = a.flatten().double().cpu().numpy(), b.flatten().double().cpu().numpy()
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None  # a constant has no ranks
    return float(spearmanr(x, y).statistic)
