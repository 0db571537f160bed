"""Intervals and differences by resampling rows. Imports nothing of simu: any layer may use it.

Shapes: R resamples, n rows, M metrics.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

Floats = NDArray[np.float64]


def stream(seed: int, name: str = "") -> np.random.Generator:
    """A generator of its own for every name, so that one more metric or split never changes another's draws."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def resample_counts(n: int, resamples: int, rng: np.random.Generator) -> Floats:
    """How often each of n rows is drawn in each resample: float64 [R, n], every row sums to n (Efron's bootstrap)."""
    draws = rng.integers(n, size=(resamples, n)) + np.arange(resamples)[:, None] * n
    return np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def bootstrap_means(values: ArrayLike, counts: Floats) -> Floats:
    """Means of the resamples: values [n] or [n, M] with counts [R, n] give [R] or [R, M]."""
    array = np.asarray(values, dtype=np.float64)
    return counts @ array / len(array)


def bootstrap_auc(members: ArrayLike, nonmembers: ArrayLike, counts_m: Floats, counts_n: Floats) -> Floats:
    """AUC of each resample, members and non-members drawn apart (stratified): [R]. Ties count one half."""
    m, n = np.asarray(members, dtype=np.float64), np.asarray(nonmembers, dtype=np.float64)
    wins = (m[:, None] > n[None, :]) + 0.5 * (m[:, None] == n[None, :])
    return ((counts_m @ wins) * counts_n).sum(axis=1) / (len(m) * len(n))


def interval(samples: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a statistic's resamples [R]."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(samples, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (1927), by scipy: of 0 of 20 it is [0, 0.161], where resampling rows that all
    score alike says [0, 0]."""
    found = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def wilson_at_end(value: float, n: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's interval of a mean of n scores in [0, 1] that is exactly 0 or 1; None for a mean between them.

    Of all variables in [0, 1] with one mean a share varies most, so for graded scores the interval is on the safe side.
    """
    return wilson(round(value) * n, n, confidence) if value in (0, 1) and n > 0 else None


def auc(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """Area under the ROC curve, members positive: [0, 1], ties one half."""
    m, n = np.asarray(members, dtype=np.float64), np.asarray(nonmembers, dtype=np.float64)
    return float(roc_auc_score(np.r_[np.ones(len(m)), np.zeros(len(n))], np.r_[m, n]))


def tpr_at_fpr(members: ArrayLike, nonmembers: ArrayLike, fpr: float = 0.01) -> float:
    """The largest true-positive rate at a false-positive rate of at most `fpr` (Carlini et al. 2022)."""
    m, n = np.asarray(members, dtype=np.float64), np.asarray(nonmembers, dtype=np.float64)
    false, true, _ = roc_curve(np.r_[np.ones(len(m)), np.zeros(len(n))], np.r_[m, n], drop_intermediate=False)
    return float(true[false <= fpr].max())


@dataclass(frozen=True, kw_only=True)
class Difference:
    """mean(a - b) over the rows that both runs scored."""

    mean: float
    ci_low: float
    ci_high: float
    p_value: float
    """Two-sided, of the null that a and b are exchangeable row by row (sign-flip permutation test)."""
    n: int


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Difference:
    """Compare two runs on the same rows: a [n], b [n], row i of one being row i of the other.

    Interval: percentile bootstrap of the mean difference; where all rows of scores in [0, 1] differ alike, resampling
    sees no spread, and it is what the mean could be if as many rows as Wilson's bound for 0 of n lets through differed
    by up to ±1. p-value: (1 + #{|flipped mean| ≥ |mean|}) / (1 + R), the
    Monte-Carlo sign-flip test (Phipson and Smyth 2010), so never 0. Raises ValueError where lengths differ or n = 0.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"paired_difference: two equally long rows of scores are needed, not {x.shape} and {y.shape}")
    d = x - y
    low, high = interval(bootstrap_means(d, resample_counts(len(d), resamples, stream(seed, "rows"))), confidence)
    if np.ptp(d) == 0 and min(x.min(), y.min()) >= 0 and max(x.max(), y.max()) <= 1:
        unseen, alike = wilson(0, len(d), confidence)[1], float(d[0])
        low, high = (alike + unseen * (end - alike) for end in (-1.0, 1.0))
    signs = stream(seed, "signs").integers(2, size=(resamples, len(d))) * 2.0 - 1.0
    tolerance = 1e-12 * max(1.0, float(np.abs(d).sum()))  # the sum's order differs between the two sides
    extreme = np.abs(signs @ d) >= abs(d.sum()) - tolerance
    return Difference(
        mean=float(d.mean()), ci_low=low, ci_high=high, p_value=float((1 + extreme.sum()) / (1 + resamples)), n=len(d)
    )


def paired_scores(
    rows_a: Sequence[Mapping[str, object]], rows_b: Sequence[Mapping[str, object]], split: str, metric: str
) -> tuple[list[float], list[float]]:
    """The scores of one metric on the rows (split, id) that both runs have, in the order of `rows_a`.

    Rows are those of generations.jsonl: {"id", "split", …, "scores": {metric: value}}.
    """

    def by_id(rows: Sequence[Mapping[str, object]]) -> dict[object, float]:
        found: dict[object, float] = {}
        for row in rows:
            scores = row["scores"]
            if row["split"] == split and isinstance(scores, Mapping) and scores.get(metric) is not None:
                found[row["id"]] = float(scores[metric])
        return found

    a, b = by_id(rows_a), by_id(rows_b)
    common = [i for i in a if i in b]
    return [a[i] for i in common], [b[i] for i in common]
