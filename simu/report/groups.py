"""Runs of one config are one row of a table: a mean over seeds and an interval, always with its n."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import stats

from simu.report.collect import Run

CONFIDENCE = 0.95
ORIGINAL = "original"
PREFIX = "original/"
SAID = 3  # settings that a place names; of more, the rest becomes a number
NOT_METRICS = ("/ci_low", "/ci_high", "/n", "/n_members", "/n_nonmembers")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure that may be printed: mean, interval, and what both are over."""

    mean: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    n: int | None = None
    """Rows a run scored for it; None where the evaluator did not say."""
    over: Literal["seeds", "rows", ""] = ""
    """What the interval is over: seeds (Student t) where several ran, else the evaluator's bootstrap over rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs that differ in nothing but their seed. `original` looks at the same runs' model before unlearning."""

    runs: tuple[Run, ...]
    settings: Mapping[str, object]
    place: str
    """The data, and what tells this model, data and evaluator from others of the same names: 'mini (forget_offset=4)'.
    Only groups of one model and place were asked the same, so only they are set side by side."""
    original: bool = False
    varying: tuple[str, ...] = field(default=())
    """Settings in which this group differs from others of the same model, place, method and mask."""

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def model(self) -> str:
        return self.first.model

    @property
    def data(self) -> str:
        return self.first.data

    @property
    def method(self) -> str:
        return ORIGINAL if self.original else self.first.method

    @property
    def mask(self) -> str:
        return "–" if self.original else self.first.mask

    @property
    def seeds(self) -> int:
        return len({run.seed for run in self.runs})

    @property
    def evaluated(self) -> bool:
        """False where every run stopped before its evaluation on purpose."""
        return any(run.metrics for run in self.runs)

    def differs(self, most: int | None = None) -> str:
        """'t=0.3, lr=1e-05': the settings that tell this group from its neighbours, `most` of them."""
        return ", ".join(f"{short(key)}={show(self.settings.get(key))}" for key in self.varying[:most])

    def label(self) -> str:
        """'simu · dual (t=0.3)'."""
        mask = "" if self.original else f" · {self.mask}"
        return f"{self.method}{mask}" + (f" ({self.differs()})" if self.varying else "")

    def metrics(self) -> list[str]:
        """Names of the metrics that any of its runs has, without intervals and counts."""
        names = {
            name.removeprefix(PREFIX) if self.original else name
            for run in self.runs
            for name in run.metrics
            if name.startswith(PREFIX) == self.original
        }
        return sorted(n for n in names if not n.endswith(NOT_METRICS))

    def estimate(self, metric: str) -> Estimate | None:
        """Mean over seeds with its interval; None where no run has the metric."""
        name = f"{PREFIX}{metric}" if self.original else metric
        having = [run for run in self.runs if math.isfinite(run.metrics.get(name, math.nan))]
        if not having:
            return None
        n = rows_scored(having[0].metrics, name)
        values = [run.metrics[name] for run in having]
        if len(values) > 1:
            low, high = over_seeds(values)
            return Estimate(mean=float(np.mean(values)), low=low, high=high, seeds=len(values), n=n, over="seeds")
        below, above = (having[0].metrics.get(f"{name}/{end}") for end in ("ci_low", "ci_high"))
        over: Literal["rows", ""] = "" if below is None or above is None else "rows"
        return Estimate(mean=values[0], low=below, high=above, n=n, over=over)

    def rows(self, split: str) -> int | None:
        """How many rows of a split were scored."""
        n = self.first.metrics.get(f"{PREFIX if self.original else ''}{split}/n")
        return None if n is None else int(n)

    def share_selected(self) -> Estimate | None:
        """Share in [0, 1] of MLP neurons that train, over seeds."""
        counts = [c for run in self.runs if (c := neurons(run))]
        if not counts or self.original:
            return None
        shares = [selected / total for selected, total in counts]
        if len(shares) == 1:
            return Estimate(mean=shares[0], n=counts[0][1])
        low, high = over_seeds(shares)
        return Estimate(
            mean=float(np.mean(shares)), low=low, high=high, seeds=len(shares), n=counts[0][1], over="seeds"
        )


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Student t interval of the mean of the seeds' values (two at least), df = seeds − 1."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def neurons(run: Run) -> tuple[int, int] | None:
    """(selected, total) MLP neurons that a run trained; None where it recorded none."""
    mask = run.provenance.get("mask")
    selected, total = (mask.get(n) for n in ("selected", "total")) if isinstance(mask, Mapping) else (None, None)
    return (selected, total) if isinstance(selected, int) and isinstance(total, int) and total else None


def rows_scored(metrics: Mapping[str, float], name: str) -> int | None:
    """The nearest count above a metric: forget/task1/regurgitation → forget/task1/regurgitation/n, forget/task1/n, …"""
    parts = name.split("/")
    for depth in range(len(parts), 0, -1):
        above = "/".join(parts[:depth])
        if (n := metrics.get(f"{above}/n")) is not None:
            return int(n)
        if (members := metrics.get(f"{above}/n_members")) is not None:
            return int(members + metrics.get(f"{above}/n_nonmembers", 0))
    return None


def group(runs: Iterable[Run]) -> list[Group]:
    """Runs by config; groups in the order of their first run, each told what makes it different.

    One run a seed: of an evaluated and a not evaluated run (stages=[target, attribution, mask]) the evaluated one.
    """
    found: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: not run.metrics):
        found.setdefault(_key(run.settings()), {}).setdefault(run.seed, run)
    members = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in found.values()]
    places = _places(itertools.chain(*members))
    groups = [
        Group(runs=same, settings=same[0].settings(), place=places[_key(_before_unlearning(same[0]))])
        for same in members
    ]
    return [_told_apart(g, groups) for g in groups if g.first.method != ORIGINAL]


def originals(runs: Iterable[Run]) -> list[Group]:
    """The models before unlearning: one group for each model, data and evaluator, one run for each seed."""
    runs = list(runs)
    places = _places(runs)
    found: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: -len(run.metrics)):  # retain_reference gives a run more metrics
        if any(name.startswith(PREFIX) for name in run.metrics):
            found.setdefault(_key(_before_unlearning(run)), {}).setdefault(run.seed, run)
    return [
        Group(
            runs=tuple(seeds[seed] for seed in sorted(seeds)),
            place=places[key],
            original=True,
            settings=_before_unlearning(next(iter(seeds.values()))),
        )
        for key, seeds in found.items()
    ]


def varying(groups: Sequence[Group]) -> tuple[str, ...]:
    """Settings that are not the same in all of the groups; option names (_target_) only where nothing else says it."""
    keys = dict.fromkeys(key for g in groups for key in g.settings)
    differing = [key for key in keys if len({repr(g.settings.get(key)) for g in groups}) > 1]
    return tuple(key for key in differing if not key.endswith("_target_")) or tuple(differing)


def short(key: str) -> str:
    """'mask.t' → 't', 'optimizer.lr' → 'lr'; the slot stays where the last word alone would not be understood."""
    known = {
        "mask.t",
        "attribution.m",
        "optimizer.lr",
        "optimizer.gamma",
        "training.epochs",
        "training.batch_size",
        "data.forget",
    }
    if key == "objective.retain_weight":
        return "λ"
    return key.rsplit(".", 1)[-1] if key in known else key


def show(value: object) -> str:
    """A setting as a person types it."""
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def _told_apart(g: Group, groups: Sequence[Group]) -> Group:
    like = [o for o in groups if (o.model, o.place, o.method, o.mask) == (g.model, g.place, g.method, g.mask)]
    return replace(g, varying=varying(like))


def _places(runs: Iterable[Run]) -> dict[str, str]:
    """Settings of model, data and evaluator (as a key) → the data's name, with what tells them apart where need be."""
    found: dict[tuple[str, str], dict[str, dict[str, object]]] = {}
    for run in runs:
        settings = _before_unlearning(run)
        found.setdefault((run.model, run.data), {})[_key(settings)] = settings
    places = {}
    for (_, data), benches in found.items():
        names = dict.fromkeys(name for settings in benches.values() for name in settings)
        apart = [name for name in names if len({repr(s.get(name)) for s in benches.values()}) > 1]
        apart.sort(key=lambda name: (name.endswith("_target_"), not name.startswith("data.")))
        for number, (key, settings) in enumerate(sorted(benches.items()), 1):
            said = [f"{name.rsplit('.', 1)[-1]}={show(settings.get(name))}" for name in apart[:SAID]]
            said += [f"… #{number}"] if len(apart) > SAID else []
            places[key] = f"{data} ({', '.join(said)})" if said else data
    return places


def _before_unlearning(run: Run) -> dict[str, object]:
    slots = ("model", "data", "evaluator", "precision")
    return {k: v for k, v in run.settings().items() if k.split(".", 1)[0] in slots}


def _key(settings: Mapping[str, object]) -> str:
    return repr(sorted(settings.items()))
