"""What attacks brought back: a table, the outcome on the terminal, and what figures draw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from simu.console import inert
from simu.metrics.metric import SUFFIXES
from simu.report.columns import label
from simu.report.estimate import Estimate
from simu.report.groups import Group
from simu.report.summary import WIDTH, cell
from simu.report.table import Column, Row, Table, texts

CONTROLS = {"retain_only": "retain only", "original": "original"}
"""Who is attacked beside the run's own model, as the metrics say it, and as a reader does."""
SETTINGS = "robustness.attacks."


@dataclass(frozen=True)
class Outcome:
    """An attack in one of its settings, and by which metrics it is read."""

    attack: str
    setting: str
    forget: str
    """The key of the first metric of forget rows: 'relearn/step_5/forget/METRIC'."""
    retain: str | None

    @property
    def metric(self) -> str:
        """'forget/METRIC'."""
        return self.forget.split("/", 2)[2]

    @property
    def step(self) -> int | None:
        """Of relearning, after how many steps."""
        number = self.setting.removeprefix("step_")
        return int(number) if number != self.setting and number.isdigit() else None


def attacks_of(g: Group) -> tuple[str, ...]:
    """Names of the attacks that a group's config has."""
    return tuple(dict.fromkeys(key[len(SETTINGS) :].split(".")[0] for key in g.settings if key.startswith(SETTINGS)))


def outcomes(metrics: Mapping[str, float], attacks: Sequence[str], kept: Sequence[str]) -> Iterator[Outcome]:
    """In the order of `attacks` and of metrics.json; a setting without a metric of forget rows is none."""
    for attack in attacks:
        of: dict[str, list[str]] = {}
        for key in metrics:
            parts = key.split("/")
            if parts[0] == attack and len(parts) > 3 and parts[-1] not in SUFFIXES:
                of.setdefault(parts[1], []).append(key)
        for setting in sorted(of, key=natural):
            sides = [first([k for k in of[setting] if k.split("/")[2] == side], kept) for side in ("forget", "retain")]
            if sides[0] is not None:
                yield Outcome(attack, setting, sides[0], sides[1])


def outcomes_of(g: Group) -> list[Outcome]:
    """Of a group's runs, as the first of them has them."""
    kept = g.settings.get("robustness.metrics", "[]")
    return list(outcomes(g.first.metrics, attacks_of(g), json.loads(str(kept))))


def first(keys: Sequence[str], kept: Sequence[str]) -> str | None:
    """The metric that a reader looks at: the first of those that the run kept, else the first by name."""
    order = {metric: i for i, metric in enumerate(kept)}
    return min(keys, key=lambda key: (order.get(key.split("/", 2)[2], len(order)), key), default=None)


def natural(setting: str) -> tuple[str, int]:
    """step_5 before step_10."""
    name, _, number = setting.rpartition("_")
    return (name, int(number)) if number.isdigit() else (setting, 0)


def print_attacks(metrics: Mapping[str, float], attacks: Sequence[str], kept: Sequence[str], method: str) -> None:
    """A row a setting: the forget metric of the run's model between its controls, and what it kept."""
    found = list(outcomes(metrics, attacks, kept))
    if not found:
        return
    table = Grid(title="after attacks", title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("attack", no_wrap=True)
    table.add_column(Text(inert(f"{label(found[0].metric)}, {method}")), justify="right", overflow="fold")
    for head in (*CONTROLS.values(), "kept"):
        table.add_column(head, justify="right", min_width=5)
    for one in found:
        keys = (*(f"{who}/{one.forget}" for who in CONTROLS), one.retain)
        others = [cell(metrics, key).split(" ")[0] if key else "–" for key in keys]
        name = f"{one.attack} {one.setting}".replace("_", " ")
        table.add_row(name, cell(metrics, one.forget).replace(" ", "\u00a0"), *others)
    Console(width=WIDTH).print(table)


def attack_table(groups: Sequence[Group]) -> Table | None:
    """Every setting of every attack, by method; None where no run was attacked."""
    rows = []
    for g in groups:
        for one in outcomes_of(g):
            found = [g.estimate(key) for key in (one.forget, *(f"{who}/{one.forget}" for who in CONTROLS))]
            kept = g.estimate(one.retain) if one.retain else None
            where = (g.place, g.model, g.kind, one.attack, one.setting.replace("_", " "), label(one.metric))
            rows.append(Row((*where, *found, kept)))
    if not rows:
        return None
    heads = ["unlearned", *CONTROLS.values()]
    scores = [Column(label=head, style="score", better="lower") for head in heads]
    return Table(
        name="attacks",
        title="Does it stay forgotten? After attacks",
        columns=(
            *texts("data", "model", "method", "attack", "setting", "metric"),
            *scores,
            Column(label="kept", style="score"),
        ),
        rows=tuple(rows),
        notes=(
            "retain only: a model that never saw the forget rows, under the same attack (retain_reference=true): what "
            "comes back of the unlearned one beyond that was hidden, not gone. kept: the same metric of retained rows.",
        ),
    )


def survival(g: Group, attack: str) -> float | None:
    """Share of the forgetting that the attack's worst setting leaves: 1 all, 0 none; None where nothing was forgotten.

    (original − attacked) / (original − unlearned), cut at 0 and 1, of the attack's forget metric.
    """
    found = [one for one in outcomes_of(g) if one.attack == attack]
    if not found:
        return None
    before, after = (mean(g.estimate(key)) for key in (f"original/{found[0].metric}", found[0].metric))
    worst = [value for one in found if (value := mean(g.estimate(one.forget))) is not None]
    if before is None or after is None or before <= after or not worst:
        return None
    return min(1.0, max(0.0, (before - max(worst)) / (before - after)))


def mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.mean
