"""A table is data: columns, rows, notes. How it looks on a terminal or in md, csv, tex and html is in render/."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from simu.console import inert
from simu.metrics.metric import Better
from simu.report.estimate import Estimate

Cell = str | int | float | Estimate | None
Kind = Literal["ours", "paper", "difference"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its label, the header that spans it, and which direction is better."""

    label: str
    span: str = ""
    better: Better | None = None
    style: Literal["text", "score", "percent", "count"] = "text"
    signed: bool = False
    """A difference: +0.0317."""
    main: bool = False
    """Kept where a terminal has no room for every column."""


@dataclass(frozen=True)
class Row:
    """ours: what runs gave; paper: printed; difference: ours − printed."""

    cells: tuple[Cell, ...]
    kind: Kind = "ours"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A finished table; every cell an Estimate, a number, a text or None (nothing to show). Whatever texts runs brought
    into it, it holds them inert: no line break, no sign that a terminal obeys, no half of a surrogate pair."""

    name: str
    """Of its files: 'table1'."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for name, value in (("title", inert(self.title)), ("notes", tuple(map(inert, self.notes)))):
            object.__setattr__(self, name, value)
        heads = (replace(c, label=inert(c.label), span=inert(c.span)) for c in self.columns)
        object.__setattr__(self, "columns", tuple(heads))
        rows = (
            replace(row, cells=tuple(inert(c) if isinstance(c, str) else c for c in row.cells)) for row in self.rows
        )
        object.__setattr__(self, "rows", tuple(rows))


WHERE = ("data", "model")
"""Labels that say what was asked of which model."""
REPEATED = ("", *WHERE, "n rows", "seeds")


def texts(*labels: str) -> tuple[Column, ...]:
    """Plain columns."""
    return tuple(Column(label=label) for label in labels)


def counted(label: str, main: bool = False) -> Column:
    """A column of whole numbers."""
    return Column(label=label, style="count", main=main)


def compact(table: Table) -> Table:
    """Labels that are the same in every row (data, model, n rows, seeds) said once, above the other notes."""
    ours = [row.cells for row in table.rows if row.kind == "ours"]
    labels = [i for i, c in enumerate(table.columns) if c.label in REPEATED and len({row[i] for row in ours}) == 1]
    if len(ours) < 2 or not labels:
        return table
    if len(ours) < len(table.rows) or any(
        row[i] not in ("", "ours") for row in ours[:1] for i in labels if not table.columns[i].label
    ):
        labels = [i for i in labels if table.columns[i].label]  # ours, paper and difference; or a verdict
    said = [f"{table.columns[i].label} {ours[0][i]}" for i in labels if table.columns[i].label]
    kept = [i for i, _ in enumerate(table.columns) if i not in labels]
    return with_columns(table, kept, (f"Every row: {'; '.join(said)}.", *table.notes) if said else table.notes)


def with_columns(table: Table, kept: Sequence[int], notes: tuple[str, ...]) -> Table:
    """The table with some of its columns, and these notes."""
    rows = tuple(Row(tuple(row.cells[i] for i in kept), row.kind) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in kept), rows=rows, notes=notes)


def without_empty(table: Table) -> Table:
    """Drop columns in which no row has anything to say."""
    kept = [i for i, _ in enumerate(table.columns) if any(row.cells[i] not in (None, "") for row in table.rows)]
    return with_columns(table, kept, table.notes)


def file_name(text: str) -> str:
    """'table6_tiny_mini (forget_offset=4)' → 'table6_tiny_mini_forget_offset=4': no path, no tag, whatever it names,
    and with room for an ending in the 255 bytes that a file system takes."""
    return re.sub(r"[^\w.=-]+", "_", text).strip("_").encode()[:120].decode(errors="ignore")


def distinct(names: Sequence[str]) -> list[str]:
    """The names with a number behind those that came before (two models may differ in a sign that no file takes)."""
    given: list[str] = []
    for name in names:
        numbered = (f"{name}_{i}" if i > 1 else name for i in range(1, len(names) + 1))
        given.append(next(one for one in numbered if one not in given))
    return given
