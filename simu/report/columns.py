"""The metric table as a report reads it: which metrics of a benchmark, in which order, headed how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simu.metrics.benchmarks import BENCHMARKS, Benchmark
from simu.metrics.metric import SPLIT_ROLES, find, table
from simu.report.direction import arrow, better
from simu.report.groups import Group
from simu.report.table import Column

SPLITS = tuple(name for name, role in SPLIT_ROLES.items() if role in ("forget", "retain"))
"""Splits that are asked questions, forgotten ones first."""


def benchmark(name: str) -> Benchmark:
    """The entry of BENCHMARKS; for a name that has none, one that lists nothing, so that all it has is shown."""
    nothing = Benchmark(
        name=name,
        title=name,
        headline=(),
        columns=(),
        main=frozenset(),
        printed={},
        more=(),
        panels=(),
        forgotten=("", 0.0),
    )
    return BENCHMARKS.get(name, nothing)


def benchmarks(groups: Iterable[Group]) -> list[Benchmark]:
    """Those of the groups, in BENCHMARKS' order, unknown ones last."""
    names = dict.fromkeys(g.benchmark for g in groups)
    return [
        benchmark(name) for name in [*(n for n in BENCHMARKS if n in names), *(n for n in names if n not in BENCHMARKS)]
    ]


def ranked(bench: Benchmark, groups: Sequence[Group]) -> str:
    """What configs are chosen by: the benchmark's first choice that all of them have, else its last."""
    return next((key for key in bench.ranked if all(key in g.metrics() for g in groups)), bench.ranked[-1])


def main_keys(bench: Benchmark, groups: Sequence[Group]) -> list[str]:
    """Keys of a benchmark's main table: those it lists, then other headline metrics; all where it lists none."""
    present = list(dict.fromkeys(key for g in groups for key in g.metrics()))
    return [*bench.columns, *unlisted(bench.columns, present)]


def unlisted(listed: Sequence[str], present: Iterable[str]) -> list[str]:
    """Of the keys that runs have: of headline metrics, whole splits alone, not listed yet. All keys where none is."""
    if not listed:
        return [key for key in present if (found := find(key)) is None or not found.groups]
    headline = {metric.key for metric in table() if metric.headline}
    return [
        key
        for key in present
        if key not in listed and (found := find(key)) and found.metric.key in headline and not found.groups
    ]


def column(key: str, main: bool = False) -> Column:
    """A metric's column: 'Forget' over 'ROUGE-L ↓'; a key that the table does not know stands as it is."""
    found = find(key)
    if found is None:
        return Column(label=key, style="score", main=main)
    return Column(label=found.metric.label, span=found.span, better=found.better, style="score", main=main)


def columns(keys: Iterable[str], main: frozenset[str] = frozenset()) -> tuple[Column, ...]:
    return tuple(column(key, key in main) for key in keys)


def label(key: str) -> str:
    """'forget ROUGE-L'; a key that the table does not know as it is."""
    found = find(key)
    return found.label if found else key


def headed(key: str) -> str:
    """'forget ROUGE-L ↓'"""
    return " ".join(filter(None, (label(key), arrow(better(key)))))


def counts(g: Group) -> str:
    """'forget 400, retain 400': the rows a run scored, by split."""
    return ", ".join(f"{split.replace('_', ' ')} {n}" for split in SPLITS if (n := g.rows(split)))
