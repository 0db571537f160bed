"""A figure that may be printed: a mean with its interval, and what both are over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from simu.metrics.metric import find
from simu.metrics.statistics import wilson_at_end
from simu.report.run import Run, mapping

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean, interval, and what both are over."""

    mean: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    n: int | None = None
    """Rows a run scored for it; None where the evaluator did not say."""
    over: Literal["seeds", "rows", ""] = ""
    """What the interval is over: seeds (Student t) where several ran, else rows, as the evaluator has it. An interval
    of no width says nothing and is none."""


def of_metric(runs: Sequence[Run], name: str) -> Estimate | None:
    """A metric's mean over the runs that have it, one run a seed; None where none has."""
    having = [run.metrics for run in runs if math.isfinite(run.metrics.get(name, math.nan))]
    if not having:
        return None
    n = rows_scored(having[0], name)
    values = [metrics[name] for metrics in having]
    if len(set(values)) > 1:
        return of_seeds(values, n)
    ends = [over_rows(metrics, name) for metrics in having]  # equal seeds: rows alone tell how sure that is
    known = [pair for pair in ends if pair]
    if not known:
        return Estimate(mean=values[0], n=n, seeds=len(values))
    low, high = min(low for low, _ in known), max(high for _, high in known)
    return Estimate(mean=values[0], low=low, high=high, n=n, seeds=len(values), over="rows")


def over_rows(metrics: Mapping[str, float], name: str) -> tuple[float, float] | None:
    """The evaluator's interval over rows. Of a share of none or all of its rows that it has without a width, Wilson's;
    of another figure without one, none."""
    low, high = (metrics.get(f"{name}/{end}") for end in ("ci_low", "ci_high"))
    if low is None or high is None:
        return None
    if low < high:
        return low, high
    found = find(name)
    share = found is not None and tuple(found.metric.bounds) == (0, 1) and found.metric.aggregate in ("mean", "auc")
    n = fewest_rows(metrics, name)
    return wilson_at_end(metrics[name], n) if share and n else None


def fewest_rows(metrics: Mapping[str, float], name: str) -> int | None:
    """As rows_scored, of an AUC the smaller group."""
    above = name.rpartition("/")[0]
    groups = [metrics.get(f"{above}/{end}") for end in ("n_members", "n_nonmembers")]
    return int(min(n for n in groups if n is not None)) if None not in groups else rows_scored(metrics, name)


def of_seeds(values: Sequence[float], n: int | None = None) -> Estimate:
    """Mean of one value a seed; with its interval where there are two at least that are not equal."""
    if len(set(values)) == 1:
        return Estimate(mean=values[0], n=n, seeds=len(values))
    low, high = over_seeds(values)
    return Estimate(mean=float(np.mean(values)), low=low, high=high, seeds=len(values), n=n, over="seeds")


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Student t interval of the mean of the seeds' values (two at least), df = seeds − 1."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def neurons(run: Run) -> tuple[int, int] | None:
    """(selected, total) MLP neurons that a run trained; None where it recorded none."""
    selected, total = (mapping(run.provenance, "mask").get(name) for name in ("selected", "total"))
    return (selected, total) if isinstance(selected, int) and isinstance(total, int) and total else None


def rows_scored(metrics: Mapping[str, float], name: str) -> int | None:
    """The nearest count above a metric: forget/task1/KEY → forget/task1/KEY/n, forget/task1/n, …"""
    parts = name.split("/")
    for depth in range(len(parts), 0, -1):
        above = "/".join(parts[:depth])
        if (n := metrics.get(f"{above}/n")) is not None:
            return int(n)
        if (members := metrics.get(f"{above}/n_members")) is not None:
            return int(members + metrics.get(f"{above}/n_nonmembers", 0))
    return None
