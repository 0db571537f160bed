"""A table as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import re

from simu.report.estimate import Estimate
from simu.report.render.cells import head, text
from simu.report.table import Table, compact


def markdown(table: Table) -> str:
    """A pipe table under a heading, notes below."""
    table = compact(table)
    lines = ["| " + " | ".join(_escaped(head(c)) for c in table.columns) + " |"]
    lines.append("|" + "|".join("---" if c.style == "text" else "---:" for c in table.columns) + "|")
    lines += ["| " + " | ".join(map(_escaped, text(table, row))) + " |" for row in table.rows]
    notes = [f"- {_inert(note)}" for note in table.notes]
    return "\n".join([f"## {_inert(table.title)}", "", *lines, "", *notes, ""])


def _inert(words: str) -> str:
    """What opens no tag, is no link, no picture and no code."""
    shown = words.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace("`", "\\`")
    return re.sub(r"\](?=[(:\[])", r"\\]", shown)


def _escaped(cell: str) -> str:
    return _inert(cell).replace("|", "\\|")


FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
"""What a spreadsheet takes for a formula."""


def _plain(cell: object) -> object:
    """A text that is none for a spreadsheet either: an apostrophe before what it would compute."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


def comma_separated(table: Table) -> str:
    """Full precision. A column with intervals becomes four: value, _low, _high, _n; `source` says whose row it is."""
    wide = [any(isinstance(row.cells[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads: list[str] = []
    for column, is_wide in zip(table.columns, wide, strict=True):
        name = str(_plain(" ".join(filter(None, (column.span, column.label))))) or "source"
        heads += [name, *(f"{name}_{end}" for end in ("low", "high", "n"))] if is_wide else [name]
    writer.writerow(heads)
    for row in table.rows:
        cells: list[object] = []
        for cell, is_wide in zip(row.cells, wide, strict=True):
            if isinstance(cell, Estimate):
                cells += [cell.mean, *("" if v is None else v for v in (cell.low, cell.high, cell.n))]
            else:
                cells += ["" if cell is None else _plain(cell), *([""] * 3 if is_wide else [])]
        writer.writerow(cells)
    return out.getvalue()
