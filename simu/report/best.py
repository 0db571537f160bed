"""The winner of a search: the best score among configs that forget enough, for each model, data and method."""

from __future__ import annotations

import operator
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simu.metrics.collapse import MAIN_SPLITS
from simu.report.columns import benchmark, columns
from simu.report.direction import better, merit, superlative
from simu.report.groups import Group, short, show, varying
from simu.report.nearest import unusual
from simu.report.run import ALL_WEIGHTS, slot_of
from simu.report.table import Column, Row, Table, counted, file_name, texts
from simu.report.tables.labels import slots_shown
from simu.report.tables.notes import warned
from simu.types import UserError

FEW = 6  # settings with a column of their own; more go into one
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
    """The group with the best mean of `metric` among those that hold every constraint; ties: the first, but for one
    whose model has collapsed."""
    allowed = [g for g in groups if g.estimate(metric) and _allowed(g, constraints)]
    return max(allowed, key=lambda g: (_merit(g, metric), not g.collapse), default=None)


def sound(groups: Sequence[Group], metric: str, constraints: Sequence[Constraint]) -> Group | None:
    """The winner among the groups whose model has not collapsed."""
    return winner([g for g in groups if not g.collapse], metric, constraints)


def commands(groups: Sequence[Group], metric: str, constraints: Sequence[Constraint], won: Group) -> list[str]:
    """The winner's command; of a winner that has collapsed also the best that has not, each said in a comment."""
    if not won.collapse:
        return [command(won, groups)]
    lines = [f"# the winner of {won.method} has collapsed: {won.collapse}", command(won, groups)]
    if other := sound(groups, metric, constraints):
        return [*lines, f"# the best of {won.method} that has not collapsed:", command(other, groups)]
    return [*lines, f"# every config of {won.method} that holds the constraint has collapsed"]


def command(g: Group, groups: Sequence[Group]) -> str:
    """'python -m simu.run model=tiny data=mini method=simu mask.t=0.3 optimizer.lr=0.0001', to be pasted into a shell:
    the options that the search went over, and the settings that it did or that are not those of their option."""
    typed = {slot: g.first.options.get(slot, name) for slot, name in (("model", g.model), ("data", g.data))}
    words: list[tuple[str, object]] = [*typed.items(), ("method", g.method)]
    found = varying(groups)
    options = [key for key in found if key == "mask" or g.is_option(key)]
    options += [key for key in g.foreign if key not in options]
    words += [(key.replace(".", "/"), g.settings[key]) for key in sorted(options) if _read(g, key)]
    other = {key for o in groups for key in o.settings if o.settings.get(key) != g.settings.get(key)}
    own = {*found, *(set(unusual(g, groups)) & other)}
    words += [(k, g.settings[k]) for k in g.settings if k in own and k not in g.first.slots and _read(g, k)]
    return shlex.join(["python", "-m", "simu.run", *(f"{key}={_typed(value)}" for key, value in words)])


def _read(g: Group, key: str) -> bool:
    """Whether the setting is there, and the mask's where a mask is read."""
    return key in g.settings and not (slot_of(key) in ("mask", "attribution") and g.mask == ALL_WEIGHTS)


def _typed(value: object) -> str:
    """A setting as Hydra reads it: signs that mean something to it in quotes."""
    text = show(value)
    if not isinstance(value, str) or text.startswith("[") or re.fullmatch(r"[\w.:/+-]+", text):
        return text
    slashes = re.sub(r'(\\*)("|$)', r"\1\1\2", text)  # Hydra reads a backslash as itself but before a quote
    return '"' + slashes.replace('"', '\\"') + '"'


def table(groups: Sequence[Group], metric: str, constraints: Sequence[Constraint], won: Group | None) -> Table:
    """Candidates, best first; those that break a constraint last. A winner whose model has collapsed is named as such,
    and the best that has not."""
    slots = [slot for slot in slots_shown(groups) if len({g.option(slot) for g in groups}) > 1]
    keys = [key for key in varying(groups) if key != "mask" and not groups[0].is_option(key)]
    few = len(keys) <= FEW
    asked = list(dict.fromkeys([metric, *(c.metric for c in constraints)]))
    told = dict.fromkeys(key for g in groups for key in g.signs() if key.split("/")[0] == MAIN_SPLITS[0])
    shown = list(dict.fromkeys([*asked, *told]))
    other = sound(groups, metric, constraints) if won and won.collapse else None
    rows = []
    for g in sorted(groups, key=lambda g: (not _allowed(g, constraints), -_merit(g, metric), g is not won)):
        verdict = _verdict(g, won, other, _allowed(g, constraints))
        settings = [show(g.settings[key]) if key in g.settings else "" for key in keys] if few else [g.apart()]
        rows.append(Row((g.mask, *map(g.option, slots), *settings, *map(g.estimate, shown), g.seeds, verdict)))
    heads = (
        *texts("mask", *slots, *(map(short, keys) if few else ["settings"])),
        *(Column(label=name, better=better(name), style="score") for name in asked),
        *columns(shown[len(asked) :]),
        counted("seeds"),
        *texts(""),
    )
    g = groups[0]
    limits = f" with {' and '.join(map(str, constraints))}" if constraints else ""
    return Table(
        name=file_name(f"best_{g.method}_{g.model}"),
        title=f"{g.method}, {g.model} on {g.place}: {len(groups)} configs",
        columns=heads,
        rows=tuple(rows),
        notes=(f"{superlative(better(metric))} {metric}{limits}, means over seeds.", *warned(groups)),
    )


def _verdict(g: Group, won: Group | None, other: Group | None, allowed: bool) -> str:
    said = "winner" if g is won else "best that has not collapsed" if g is other else ""
    return ", ".join(filter(None, (said, g.state(), "" if allowed else "breaks the constraint")))


def _allowed(g: Group, constraints: Sequence[Constraint]) -> bool:
    return all(c.holds(g) for c in constraints)


def _merit(g: Group, metric: str) -> float:
    found = g.estimate(metric)
    return merit(better(metric), found.mean) if found else float("-inf")


def _refuse(text: str) -> Constraint:
    raise UserError(f"--where {text!r}: allowed is METRIC<=NUMBER, such as 'forget/SCORE<=0.3' (or <, >=, >)")
