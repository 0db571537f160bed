"""The winner of a search: the highest score among configs that forget enough, for each model, data and method."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simu.report.groups import Group, short, show, varying
from simu.report.tables import Column, Row, Table, is_lume
from simu.types import UserError

SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Constraint:
    """'forget/rouge_l_recall<=0.3'"""

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


def default_constraint(g: Group) -> Constraint:
    """What counts as forgotten where nothing is asked for: at most 30 % of the answer's words in order."""
    return Constraint("forget/regurgitation" if is_lume(g) else "forget/rouge_l_recall", "<=", 0.3)


def candidates(groups: Sequence[Group]) -> list[list[Group]]:
    """The configs of each model, data and method."""
    found: dict[tuple[str, str, str], list[Group]] = {}
    for g in filter(lambda g: g.evaluated, groups):
        found.setdefault((g.place, g.model, g.method), []).append(g)
    return [found[key] for key in sorted(found)]


def winner(groups: Sequence[Group], metric: str, constraints: Sequence[Constraint]) -> Group | None:
    """The group with the highest mean of `metric` among those that hold every constraint; ties: the first."""
    allowed = [g for g in groups if g.estimate(metric) and all(c.holds(g) for c in constraints)]
    return max(allowed, key=lambda g: _mean(g, metric), default=None)


def overrides(g: Group, groups: Sequence[Group]) -> str:
    """'model=tiny data=mini method=simu mask.t=0.3 optimizer.lr=0.0001': the settings that the search went over."""
    words = [f"model={g.model}", f"data={g.data}", f"method={g.method}"]
    if len({o.mask for o in groups}) > 1 and g.mask != "all weights":
        words.append(f"mask={g.mask}")
    keys = [key for key in varying(groups) if not key.endswith("_target_")]
    return " ".join([*words, *(f"{key}={show(g.settings[key])}" for key in keys if key in g.settings)])


def table(groups: Sequence[Group], metric: str, constraints: Sequence[Constraint], won: Group | None) -> Table:
    """Candidates, best first; those that break a constraint last."""
    keys = [key for key in varying(groups) if key != "mask._target_"]  # the first column says it
    shown = list(dict.fromkeys([metric, *(c.metric for c in constraints)]))
    ranked = sorted(groups, key=lambda g: (not all(c.holds(g) for c in constraints), -_mean(g, metric)))
    rows = []
    for g in ranked:
        verdict = "winner" if g is won else "" if all(c.holds(g) for c in constraints) else "breaks the constraint"
        rows.append(
            Row((g.mask, *(show(g.settings.get(key)) for key in keys), *map(g.estimate, shown), g.seeds, verdict))
        )
    columns = (
        Column(label="mask"),
        *(Column(label=short(key)) for key in keys),
        *(Column(label=name, style="score") for name in shown),
        Column(label="seeds", style="count"),
        Column(label=""),
    )
    g = groups[0]
    title = f"{g.method}, {g.model} on {g.place}: {len(groups)} configs"
    notes = (f"Highest {metric} with {' and '.join(map(str, constraints))}, means over seeds.",)
    return Table(name=f"best_{g.method}_{g.model}", title=title, columns=columns, rows=tuple(rows), notes=notes)


def _mean(g: Group, metric: str) -> float:
    found = g.estimate(metric)
    return found.mean if found else float("-inf")


def _refuse(text: str) -> Constraint:
    raise UserError(f"--where {text!r}: allowed is METRIC<=NUMBER, such as forget/rouge_l_recall<=0.3 (or <, >=, >)")
