"""The winner of a search: the best score among configs that forget enough, for each model, data and method."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simu.report.columns import benchmark
from simu.report.direction import better, merit, superlative
from simu.report.groups import Group, short, show, varying
from simu.report.run import ALL_WEIGHTS
from simu.report.table import Column, Row, Table, counted, file_name, texts
from simu.types import UserError

SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Constraint:
    """'forget/METRIC<=0.3'"""

    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"

    def holds(self, g: Group) -> bool:
        found = g.estimate(self.metric)
        return found is not None and SIGNS[self.sign](found.mean, self.bound)


def parse(text: str) -> Constraint:
    """Raises UserError where the text is not METRIC<=NUMBER (or <, >=, >)."""
    match = re.fullmatch(r"\s*([\w/+.]+?)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*", text)
    try:
        return Constraint(match[1], match[2], float(match[3])) if match else _refuse(text)
    except ValueError:
        return _refuse(text)


def default_constraints(g: Group) -> list[Constraint]:
    """What the group's benchmark counts as forgotten; none where nobody said."""
    metric, bound = benchmark(g.benchmark).forgotten
    return [Constraint(metric, "<=", bound)] if metric else []


def candidates(groups: Sequence[Group]) -> list[list[Group]]:
    """The configs of each model, data and method."""
    found: dict[tuple[str, str, str], list[Group]] = {}
    for g in filter(lambda g: g.evaluated, groups):
        found.setdefault((g.place, g.model, g.method), []).append(g)
    return [found[key] for key in sorted(found)]


def winner(groups: Sequence[Group], metric: str, constraints: Sequence[Constraint]) -> Group | None:
    """The group with the best mean of `metric` among those that hold every constraint; ties: the first."""
    allowed = [g for g in groups if g.estimate(metric) and _allowed(g, constraints)]
    return max(allowed, key=lambda g: _merit(g, metric), default=None)


def overrides(g: Group, groups: Sequence[Group]) -> str:
    """'model=tiny data=mini method=simu mask.t=0.3 optimizer.lr=0.0001': the settings that the search went over."""
    words = [f"model={g.model}", f"data={g.data}", f"method={g.method}"]
    keys = [key for key in _keys(groups) if key in g.settings and not (key == "mask" and g.mask == ALL_WEIGHTS)]
    said = {key: key.replace(".", "/") if g.is_option(key) else key for key in keys}
    return " ".join([*words, *(f"{said[key]}={show(g.settings[key])}" for key in keys)])


def table(groups: Sequence[Group], metric: str, constraints: Sequence[Constraint], won: Group | None) -> Table:
    """Candidates, best first; those that break a constraint last."""
    keys = [key for key in _keys(groups) if key != "mask"]  # the first column says it
    shown = list(dict.fromkeys([metric, *(c.metric for c in constraints)]))
    rows = []
    for g in sorted(groups, key=lambda g: (not _allowed(g, constraints), -_merit(g, metric))):
        verdict = "winner" if g is won else "" if _allowed(g, constraints) else "breaks the constraint"
        settings = (show(g.settings.get(key)) for key in keys)
        rows.append(Row((g.mask, *settings, *map(g.estimate, shown), g.seeds, verdict)))
    columns = (
        *texts("mask", *map(short, keys)),
        *(Column(label=name, better=better(name), style="score") for name in shown),
        counted("seeds"),
        *texts(""),
    )
    g = groups[0]
    limits = f" with {' and '.join(map(str, constraints))}" if constraints else ""
    return Table(
        name=file_name(f"best_{g.method}_{g.model}"),
        title=f"{g.method}, {g.model} on {g.place}: {len(groups)} configs",
        columns=columns,
        rows=tuple(rows),
        notes=(f"{superlative(better(metric))} {metric}{limits}, means over seeds.",),
    )


def _keys(groups: Sequence[Group]) -> list[str]:
    """Settings that the search went over; options first, so that what they bring is read under their name."""
    keys = [key for key in varying(groups) if not key.endswith("_target_")]
    return sorted(keys, key=lambda key: not (key == "mask" or groups[0].is_option(key)))


def _allowed(g: Group, constraints: Sequence[Constraint]) -> bool:
    return all(c.holds(g) for c in constraints)


def _merit(g: Group, metric: str) -> float:
    found = g.estimate(metric)
    return merit(better(metric), found.mean) if found else float("-inf")


def _refuse(text: str) -> Constraint:
    raise UserError(f"--where {text!r}: allowed is METRIC<=NUMBER, such as 'forget/SCORE<=0.3' (or <, >=, >)")
