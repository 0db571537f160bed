"""THE table of metrics: what a figure is called, which direction is better, its bounds, chance level and source.

A metric is declared once, as an entry of METRICS in the module of `simu.metrics` that computes it. Summary, tables,
figures, page, dashboard, `best` and `compare` iterate over these entries and over BENCHMARKS (benchmarks.py); none of
them knows a metric by name. A key that matches no entry (of an old run, say) is shown, unlabelled, not lost.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

Role = Literal["forget", "retain", "held_out", "membership", "whole"]
SPLIT_ROLES: Mapping[str, Role] = {
    "forget": "forget",
    "retain": "retain",
    "world_facts": "retain",
    "real_authors": "retain",
    "holdout": "held_out",
    "mia": "membership",
    "mia_member": "held_out",
    "mia_nonmember": "held_out",
}
"""The first part of a metric's key → the role that decides its direction; a key without one is of the whole run."""
SUFFIXES = ("ci_low", "ci_high", "n", "n_members", "n_nonmembers", "n_windowed")
"""Last parts of keys that say something of the metric before them."""
PREFIXES = ("original",)
"""First parts of keys that say which model the rest is of."""


@dataclass(frozen=True, kw_only=True)
class Near:
    """Better is nearer to `value`: a membership AUC is best at 0.5, and 0 leaks as much as 1."""

    value: float


Better = Literal["lower", "higher"] | Near
Score = Callable[[Any], float | None]
KNOWN: Mapping[Role, Better] = {"forget": "lower", "retain": "higher"}
"""The direction of whatever grows with what a model knows."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One score."""

    key: str
    """Of a row score its name (`exact_match`, met as SPLIT/exact_match); of a figure of the run the whole key
    (`aggregate`, `mia/min_k`)."""
    label: str
    """As tables head it."""
    better: Mapping[Role, Better]
    """Role → direction. A role that is left out has none (an n-gram rate of retained rows says nothing by itself)."""
    bounds: tuple[float, float]
    """Least and largest value."""
    aggregate: Literal["mean", "auc", "combined", "whole"]
    """Mean over rows, AUC of two groups of rows, a function of other metrics, or of all rows at once."""
    source: str
    """Where the definition is from."""
    chance: float | None = None
    """What knowing nothing scores."""
    reads: Literal["text", "tokens", ""] = ""
    """What `score` reads of a row: its generated text or its token scores. "": the evaluator computes the metric."""
    score: Score | None = field(default=None, compare=False)
    """Row evidence (`simu.metrics.evidence`) → score, or None where the row has none. Evaluators call it for every row
    that has what it reads."""
    headline: bool = False
    """Shown in summaries and main tables though no benchmark lists it."""
    span: str = ""
    """Heads its column where no split does: 'MIA AUC', 'SemEval'."""
    words: str = ""
    """The label where there is room for more: in summaries and figures. "": as the label."""
    benchmarks: frozenset[str] = frozenset()
    """Benchmarks whose rows `score` is called for; none named: all."""
    collapse: float | None = None
    """A mean beyond this, on the worse side, on rows to forget or to keep is that of a model that has collapsed, unless
    it was so before unlearning (simu/metrics/collapse.py). None: says nothing of that."""
    partial: bool = False
    """Whether `score` may read a text that was stopped once it could not equal its answer any more."""

    def __post_init__(self) -> None:
        if (self.reads == "") != (self.score is None):
            raise ValueError(f"metric {self.key!r}: `reads` and `score` come together")

    def identity(self) -> str:
        """As an input of an evaluation; what it computes is in `modules`."""
        return self.key

    @property
    def modules(self) -> tuple[str, ...]:
        """Of simu, with its score: no static import shows them."""
        return () if self.score is None else (self.score.__module__,)


def row_mean(key: str, label: str, reads: Literal["text", "tokens"], score: Score, source: str, **more: Any) -> Metric:
    """A mean over rows; unless `more` says otherwise, of scores in [0, 1] that grow with what a model knows."""
    fields = {"better": KNOWN, "bounds": (0, 1), **more}
    return Metric(key=key, label=label, reads=reads, score=score, source=source, aggregate="mean", **fields)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A key of metrics.json, understood."""

    metric: Metric
    split: str
    """'' for a figure of the whole run."""
    role: Role
    groups: tuple[str, ...] = ()
    """What stands between or behind: a task, a type of personal data."""

    @property
    def better(self) -> Better | None:
        return self.metric.better.get(self.role)

    @property
    def label(self) -> str:
        """'forget exact match', 'membership AUC, min-k'."""
        words = [self.split.replace("_", " "), *self.groups, self.metric.words or self.metric.label]
        return " ".join(word for word in words if word)

    @property
    def span(self) -> str:
        """What heads its column: 'World facts', 'Forget, task 1', 'MIA AUC'."""
        groups = [re.sub(r"(?<=[^\W\d])(?=\d)", " ", group).replace("_", " ").lower() for group in self.groups]
        return ", ".join(filter(None, (self.metric.span or self.split.replace("_", " ").capitalize(), *groups)))


@cache
def table() -> tuple[Metric, ...]:
    """Every entry of METRICS in the modules of `simu.metrics`, by module name and order."""
    package = importlib.import_module("simu.metrics")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"simu.metrics.{name}") for name in names]
    return tuple(entry for module in modules for entry in getattr(module, "METRICS", ()))


def row_metrics() -> tuple[Metric, ...]:
    """The entries that evaluators compute row by row, in the table's order. They are an input of an evaluation that no
    import shows: `row_modules` names their code."""
    return tuple(entry for entry in entries().values() if entry.score is not None)


def row_modules() -> tuple[str, ...]:
    """The modules whose code the row metrics are: 'simu.metrics.text', … A cache key digests them and what they
    import."""
    return tuple(sorted({entry.score.__module__ for entry in row_metrics() if entry.score is not None}))


@cache
def entries() -> Mapping[str, Metric]:
    """Key → entry. Raises ValueError where two entries have one key."""
    found: dict[str, Metric] = {}
    for metric in table():
        if metric.key in found:
            raise ValueError(f"two metrics have the key {metric.key!r}: {found[metric.key].label}, {metric.label}")
        found[metric.key] = metric
    return found


def find(key: str) -> Found | None:
    """The entry that a key of metrics.json belongs to: 'original/forget/Task2/knowledge/ssn' → knowledge of forget.

    None for a key that no entry explains, and for one that ends in a suffix (an interval's end, a count).
    """
    parts = key.split("/")
    if parts[-1] in SUFFIXES:
        return None
    parts = parts[1:] if parts[0] in PREFIXES else parts
    known = entries()
    if (whole := known.get("/".join(parts))) is not None:
        role: Role = SPLIT_ROLES.get(parts[0], "whole") if len(parts) > 1 else "whole"
        return Found(metric=whole, split="" if role in ("whole", "membership") else parts[0], role=role)
    if parts[0] not in SPLIT_ROLES:
        return None
    named = [i for i, part in enumerate(parts[1:], 1) if part in known]
    if len(named) != 1:
        return None
    groups = tuple(part for i, part in enumerate(parts[1:], 1) if i != named[0])
    return Found(metric=known[parts[named[0]]], split=parts[0], role=SPLIT_ROLES[parts[0]], groups=groups)
