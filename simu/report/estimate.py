"""A figure that may be printed: a mean with its interval, and what both are over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

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
    """What the interval is over: seeds (Student t) where several ran, else the evaluator's bootstrap over rows."""


def of_metric(runs: Sequence[Run], name: str) -> Estimate | None:
    """A metric's mean over the runs that have it, one run a seed; None where none has."""
    having = [run.metrics for run in runs if math.isfinite(run.metrics.get(name, math.nan))]
    if not having:
        return None
    n = rows_scored(having[0], name)
    if len(having) > 1:
        return of_seeds([metrics[name] for metrics in having], n)
    low, high = (having[0].get(f"{name}/{end}") for end in ("ci_low", "ci_high"))
    over: Literal["rows", ""] = "" if low is None or high is None else "rows"
    return Estimate(mean=having[0][name], low=low, high=high, n=n, over=over)


def of_seeds(values: Sequence[float], n: int | None = None) -> Estimate:
    """Mean of one value a seed; with its interval where there are two at least."""
    if len(values) == 1:
        return Estimate(mean=values[0], n=n)
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
