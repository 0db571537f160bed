"""A table on a terminal (rich): whole, on its side, or its main columns, whatever the width has room for."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from simu.report.render.cells import EMPTY, figure, head, text
from simu.report.table import WHERE, Cell, Column, Row, Table, compact, with_columns
from simu.report.tables.labels import SLOTS

CELL = 16  # letters of a text in a narrow cell: '[-0.024, 0.064]' and one
CUT = 160  # letters of a generated text
SHORT = {"paper": "paper", "difference": "diff"}
STYLES = {"ours": "", "paper": "dim", "difference": "cyan"}


def terminal(table: Table, width: int = 160) -> list[RichTable]:
    """For rich's console of `width` columns; intervals under their figure, printed rows dim.

    A table that is too wide is turned on its side (metrics down, methods across, one a model and data), or keeps its
    main columns only where there are too many rows for that. Texts that were generated are stacked, one row a split.
    """
    if any(c.label == "question" for c in table.columns):
        return [_stacked(table)]
    whole = compact(table)
    if _natural(whole) <= width:
        return [_upright(whole)]
    parts = [list(rows) for _, rows in groupby(table.rows, key=lambda row: _where(table, row))]
    if max(sum(row.kind == "ours" for row in rows) for rows in parts) <= 5:
        return [_turned(_part(table, rows, last=rows is parts[-1])) for rows in parts]
    kept = [i for i, c in enumerate(whole.columns) if c.style == "text" or c.main]
    if any(c.main for c in whole.columns) and len(kept) < len(whole.columns):
        title = f"{table.title} (main columns; all of them are in the files)"
        whole = replace(with_columns(whole, kept, whole.notes), title=title)
    return [_upright(whole)]


def _part(table: Table, rows: list[Row], last: bool) -> Table:
    """The rows of one model and data, which go into the title; the last part has the notes."""
    where = " on ".join(map(str, reversed(_where(table, rows[0]))))
    title = f"{table.title} – {where}" if where else table.title
    kept = [i for i, c in enumerate(table.columns) if c.label not in WHERE]
    part = replace(table, title=title, rows=tuple(rows), notes=table.notes if last else ())
    return compact(with_columns(part, kept, part.notes))


def _natural(table: Table) -> int:
    """Columns of a terminal that a table fills when nothing is broken but an interval from its figure."""
    lines = [[head(c, "\n") for c in table.columns], *(text(table, row, "\n") for row in table.rows)]
    widths = [max(len(line) for cell in cells for line in cell.split("\n")) for cells in zip(*lines, strict=True)]
    return sum(widths) + 2 * len(widths)


def _where(table: Table, row: Row) -> tuple[Cell, ...]:
    return tuple(cell for cell, c in zip(row.cells, table.columns, strict=True) if c.label in WHERE)


def _upright(table: Table) -> RichTable:
    out = _frame(table.title, table.notes)
    for column in table.columns:
        words = column.style == "text"
        justify = "left" if words else "right"
        out.add_column(Text(head(column, "\n")), justify=justify, overflow="fold", no_wrap=not words)  # type: ignore[arg-type]
    for row in table.rows:
        out.add_row(*map(Text, text(table, row, "\n")), style=STYLES[row.kind])
    return out


def _turned(table: Table) -> RichTable:
    """Labels across, figures down: one column for each of our rows, printed figure and difference inside its cell."""
    labels = [
        i for i, c in enumerate(table.columns) if c.label in ("method", "mask", *SLOTS, "settings", "warning", "")
    ]
    out = _frame(table.title, table.notes)
    out.add_column("", overflow="fold", min_width=11)
    blocks: list[list[Row]] = []
    for row in table.rows:
        if row.kind == "ours":
            told = [i for i in labels if row.cells[i] not in ("ours", "", EMPTY, None)]
            said = [fill(_label(table.columns[i], row.cells[i]), CELL - 1) for i in told]
            out.add_column(Text("\n".join(said)), justify="right", no_wrap=True)
            blocks.append([])
        blocks[-1].append(row)
    for i, column in enumerate(table.columns):
        if i not in labels and any(row.cells[i] is not None for row in table.rows):
            out.add_row(Text(head(column)), *(_turned_cell(table, block, i) for block in blocks))
    return out


def _label(column: Column, cell: Cell) -> str:
    """An option with its slot; the method and the mask speak for themselves."""
    return f"{column.label} {cell}" if column.label in SLOTS else str(cell)


def _turned_cell(table: Table, block: list[Row], i: int) -> Text:
    """Ours, then the printed figure and the difference."""
    column = table.columns[i]
    main, interval = figure(block[0].cells[i], column)
    lines = [Text("\n".join(filter(None, (fill(main, CELL), interval))))]
    for row in block[1:]:
        if row.cells[i] is not None:
            number, _ = figure(row.cells[i], column, row.kind == "difference")
            lines.append(Text(f"{SHORT[row.kind]} {number}", style=STYLES[row.kind]))
    return Text("\n").join(lines)


def _stacked(table: Table) -> RichTable:
    """The first row of each split, a line for the question, the answer and what each method said."""
    out = _frame(f"{table.title} (one row a split; all of them are in the files)", table.notes)
    out.show_header = False
    out.add_column(style="bold")
    out.add_column(overflow="fold")
    answer = [c.label for c in table.columns].index("answer")
    for _, rows in groupby(table.rows, key=lambda row: row.cells[0]):
        split, row, *cells = map(str, next(iter(rows)).cells)
        out.add_row(Text(split), Text(row, style="bold"))
        for i, words in enumerate(cells, 2):
            same = i > answer and words == cells[answer - 2]
            said = Text("= answer", style="dim") if same else Text(f"{words[:CUT]}…" if len(words) > CUT else words)
            out.add_row(Text(table.columns[i].label), said, end_section=i + 1 == len(table.columns))
    return out


def _frame(title: str, notes: tuple[str, ...]) -> RichTable:
    return RichTable(
        title=Text(title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(notes), style="dim italic"),
        box=SIMPLE_HEAD,
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
