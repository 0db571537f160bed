"""Metrics as they are collected: each mean, AUC and combination with the interval of its resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from simu.metrics.metric import find
from simu.metrics.statistics import (
    Floats,
    auc,
    bootstrap_auc,
    bootstrap_means,
    interval,
    resample_counts,
    stream,
    tpr_at_fpr,
    wilson_at_end,
)


@dataclass(kw_only=True)
class Figures:
    """Flat metrics: `key`, and with bootstrap > 0 also `key/ci_low` and `key/ci_high`.

    A group names a set of rows. One group's rows are resampled together, whatever is measured on them, so combinations
    of metrics keep their correlation; groups are resampled apart.

    Rows that all score 0, or all 1, resample to an interval of no width. Then it is Wilson's: of a mean over its n
    rows, of an AUC over as many pairs as its smaller group has rows. A combination whose resamples are all equal has
    the range over its parts' intervals.
    """

    bootstrap: int
    seed: int
    confidence: float = 0.95
    metrics: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """What the data cannot give and why, one line each: 'aggregate: left out, there is no mia/min_k'."""
    _samples: dict[str, Floats] = field(default_factory=dict)
    _counts: dict[tuple[str, int], Floats] = field(default_factory=dict)

    def mean(self, key: str, group: str, values: Sequence[float]) -> None:
        samples = bootstrap_means(values, self._resamples(group, len(values))) if self.bootstrap else None
        found = find(key)
        share = found is not None and tuple(found.metric.bounds) == (0, 1)
        self._add(key, float(np.mean(values)), samples, n=len(values) if share else 0)

    def auc(self, key: str, members: tuple[str, Sequence[float]], nonmembers: tuple[str, Sequence[float]]) -> None:
        """AUC and TPR at 1 % FPR of two groups' scores, each given as (group, scores)."""
        (group_m, m), (group_n, n) = members, nonmembers
        samples = None
        if self.bootstrap:
            samples = bootstrap_auc(m, n, self._resamples(group_m, len(m)), self._resamples(group_n, len(n)))
        self._add(key, auc(m, n), samples, n=min(len(m), len(n)))
        self.metrics[f"{key}/tpr_at_1_fpr"] = tpr_at_fpr(m, n)

    def combine(self, key: str, parts: Sequence[str], function: Callable[[list[Floats]], ArrayLike]) -> None:
        """A function of metrics already there, applied to their values and to their resamples ([R] arrays)."""
        value = function([np.asarray(self.metrics[p]) for p in parts])
        samples = function([self._samples[p] for p in parts]) if self.bootstrap else None
        self._add(key, float(np.asarray(value)), samples)
        if samples is not None and np.ptp(samples) == 0:
            ends = [(self.metrics[f"{p}/ci_low"], self.metrics[f"{p}/ci_high"]) for p in parts]
            corners = np.asarray(function(list(np.array(list(product(*ends))).T)))
            self._set_interval(key, (float(corners.min()), float(corners.max())))

    def _resamples(self, group: str, n: int) -> Floats:
        if (group, n) not in self._counts:
            self._counts[group, n] = resample_counts(n, self.bootstrap, stream(self.seed, f"{group}/{n}"))
        return self._counts[group, n]

    def _add(self, key: str, value: float, samples: ArrayLike | None, n: int = 0) -> None:
        """`n`: of a share, what Wilson's interval is over where it is 0 or 1."""
        self.metrics[key] = value
        if samples is not None:
            self._samples[key] = np.asarray(samples, dtype=np.float64)
            at_end = wilson_at_end(value, n, self.confidence)
            self._set_interval(key, at_end or interval(samples, self.confidence))

    def _set_interval(self, key: str, ends: tuple[float, float]) -> None:
        self.metrics[f"{key}/ci_low"], self.metrics[f"{key}/ci_high"] = ends
