"""One table, five dresses: terminal (rich), Markdown, CSV, LaTeX, HTML. Pure functions of a Table."""

from __future__ import annotations

import csv
import html
import io
from dataclasses import replace
from itertools import groupby
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from simu.report.groups import Estimate, show
from simu.report.tables import Cell, Column, Row, Table, compact, with_columns

ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}
EMPTY = "–"


def figure(cell: Cell, column: Column, signed: bool = False) -> tuple[str, str]:
    """A cell as ('0.7963', '[0.771, 0.820]'): what is printed large, and the interval where there is one."""
    if cell is None:
        return EMPTY, ""
    if isinstance(cell, str):
        return cell, ""
    if isinstance(cell, Estimate):
        inside = _interval(cell, column)
        return _number(cell.mean, column), f"[{inside[0]}, {inside[1]}]" if inside else ""
    return _number(cell, column, signed), ""


def text(table: Table, row: Row, between: str = " ") -> list[str]:
    """The cells of a row as plain texts."""
    pairs = [figure(cell, c, row.kind == "difference") for cell, c in zip(row.cells, table.columns, strict=True)]
    return [between.join(filter(None, pair)) for pair in pairs]


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
    parts = [list(rows) for _, rows in groupby(table.rows, key=lambda row: _place(table, row))]
    if max(sum(row.kind == "ours" for row in rows) for rows in parts) <= 5:
        return [_turned(_part(table, rows, last=rows is parts[-1])) for rows in parts]
    kept = [i for i, c in enumerate(whole.columns) if c.style == "text" or c.main]
    if any(c.main for c in whole.columns) and len(kept) < len(whole.columns):
        title = f"{table.title} (main columns; all of them are in the files)"
        whole = replace(with_columns(whole, kept, whole.notes), title=title)
    return [_upright(whole)]


def _part(table: Table, rows: list[Row], last: bool) -> Table:
    """The rows of one model and data, which go into the title; the last part has the notes."""
    where = " on ".join(map(str, reversed(_place(table, rows[0]))))
    title = f"{table.title} – {where}" if where else table.title
    kept = [i for i, c in enumerate(table.columns) if c.label not in ("data", "model")]
    part = replace(table, title=title, rows=tuple(rows), notes=table.notes if last else ())
    return compact(with_columns(part, kept, part.notes))


def _natural(table: Table) -> int:
    """Columns of a terminal that a table fills when nothing is broken but an interval from its figure."""
    lines = [[_head(c) for c in table.columns], *(text(table, row, "\n") for row in table.rows)]
    widths = [max(len(line) for cell in cells for line in cell.split("\n")) for cells in zip(*lines, strict=True)]
    return sum(widths) + 2 * len(widths)


def _place(table: Table, row: Row) -> tuple[Cell, ...]:
    return tuple(cell for cell, c in zip(row.cells, table.columns, strict=True) if c.label in ("data", "model"))


def _upright(table: Table) -> RichTable:
    out = _frame(table.title, table.notes)
    for column in table.columns:
        words = column.style == "text"
        out.add_column(_head(column), justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in table.rows:
        style = {"ours": "", "paper": "dim", "difference": "cyan"}[row.kind]
        out.add_row(*map(Text, text(table, row, "\n")), style=style)
    return out


def _turned(table: Table) -> RichTable:
    """Labels across, figures down: one column for each of our rows, printed figure and difference inside its cell."""
    labels = [i for i, c in enumerate(table.columns) if c.label in ("method", "mask", "settings", "")]
    out = _frame(table.title, table.notes)
    out.add_column("", overflow="fold", min_width=11)
    blocks: list[list[Row]] = []
    for row in table.rows:
        if row.kind == "ours":
            said = [str(row.cells[i]) for i in labels if row.cells[i] not in ("ours", "", None)]
            out.add_column("\n".join(fill(word, CELL) for word in said), justify="right", no_wrap=True)
            blocks.append([])
        blocks[-1].append(row)
    for i, column in enumerate(table.columns):
        if i in labels or all(row.cells[i] is None for row in table.rows):
            continue
        cells = []
        for block in blocks:
            main, interval = figure(block[0].cells[i], column)
            lines = [Text("\n".join(filter(None, (fill(main, CELL), interval))))]
            for row in block[1:]:
                if row.cells[i] is not None:
                    number, _ = figure(row.cells[i], column, row.kind == "difference")
                    line = f"{SHORT[row.kind]} {number}"
                    lines.append(Text(line, style="dim" if row.kind == "paper" else "cyan"))
            cells.append(Text("\n").join(lines))
        out.add_row(_head(column, " "), *cells)
    return out


CELL = 16  # letters of a text in a narrow cell: '[-0.024, 0.064]' and one
SHORT = {"paper": "paper", "difference": "diff"}


CUT = 160  # letters of a generated text on a terminal


def _stacked(table: Table) -> RichTable:
    """The first row of each split, a line for the question, the answer and what each method said."""
    out = _frame(f"{table.title} (one row a split; all of them are in the files)", table.notes)
    out.show_header = False
    out.add_column(style="bold")
    out.add_column(overflow="fold")
    answer = [c.label for c in table.columns].index("answer")
    for _, rows in groupby(table.rows, key=lambda row: row.cells[0]):
        split, row, *cells = map(str, next(iter(rows)).cells)
        out.add_row(split, Text(row, style="bold"))
        for i, words in enumerate(cells, 2):
            same = i > answer and words == cells[answer - 2]
            said = Text("= answer", style="dim") if same else Text(f"{words[:CUT]}…" if len(words) > CUT else words)
            out.add_row(table.columns[i].label, said, end_section=i + 1 == len(table.columns))
    return out


def _frame(title: str, notes: tuple[str, ...]) -> RichTable:
    return RichTable(
        title=title,
        title_justify="left",
        title_style="bold",
        caption="\n".join(notes),
        box=SIMPLE_HEAD,
        caption_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _head(column: Column, between: str = "\n") -> str:
    return between.join(filter(None, (column.span, column.label + ARROWS[column.better])))


def markdown(table: Table) -> str:
    """A pipe table under a heading, notes below."""
    table = compact(table)
    heads = [" ".join(filter(None, (c.span, c.label))) + ARROWS[c.better] for c in table.columns]
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join("---" if c.style == "text" else "---:" for c in table.columns) + "|")
    for row in table.rows:
        cells = [cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for cell in text(table, row)]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"## {table.title}", "", *lines, "", *notes, ""])


def comma_separated(table: Table) -> str:
    """Full precision. A column with intervals becomes four: value, _low, _high, _n; `source` says whose row it is."""
    wide = [any(isinstance(row.cells[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads: list[str] = []
    for column, is_wide in zip(table.columns, wide, strict=True):
        name = " ".join(filter(None, (column.span, column.label))) or "source"
        heads += [name, *(f"{name}_{end}" for end in ("low", "high", "n"))] if is_wide else [name]
    writer.writerow(heads)
    for row in table.rows:
        cells: list[object] = []
        for cell, is_wide in zip(row.cells, wide, strict=True):
            if isinstance(cell, Estimate):
                cells += [cell.mean, *("" if v is None else v for v in (cell.low, cell.high, cell.n))]
            else:
                cells += ["" if cell is None else cell, *([""] * 3 if is_wide else [])]
        writer.writerow(cells)
    return out.getvalue()


def latex(table: Table) -> str:
    """A booktabs table* with \\caption and \\label, notes as comments."""
    table = compact(table)
    spec = "".join("l" if c.style == "text" else "r" for c in table.columns)
    lines = ["% \\usepackage{booktabs,graphicx}; generated texts may need XeLaTeX or LuaLaTeX for their letters"]
    lines += [f"% {note}" for note in table.notes]
    lines += [
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{_tex(table.title)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\resizebox{\\textwidth}{!}{%",
        f"\\begin{{tabular}}{{{spec}}}",
        "\\toprule",
    ]
    if any(c.span for c in table.columns):
        lines += _tex_spans(table.columns)
    arrows = {"lower": " $\\downarrow$", "higher": " $\\uparrow$", "": ""}
    lines += [" & ".join(_tex(c.label) + arrows[c.better] for c in table.columns) + " \\\\", "\\midrule"]
    for row in table.rows:
        cells = []
        for cell, column in zip(row.cells, table.columns, strict=True):
            main, interval = figure(cell, column, row.kind == "difference")
            main = _tex(main)
            cells.append(f"{main} {{\\scriptsize {interval}}}" if interval else main)
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}}", "\\end{table*}", ""])


def hypertext(table: Table) -> str:
    """A <table> in a <section>, notes as a list."""
    table = compact(table)
    long = {
        i
        for i, c in enumerate(table.columns)
        if c.style == "text" and any(len(str(row.cells[i])) > 40 for row in table.rows)
    }
    spans = ""
    if any(c.span for c in table.columns):
        wide = [(span, len(list(same))) for span, same in groupby(table.columns, key=lambda c: c.span)]
        spans = "".join(f'<th colspan="{n}"{" class=span" if s else ""}>{html.escape(s)}</th>' for s, n in wide)
        spans = f"<tr>{spans}</tr>"
    heads = "".join(f"<th{_class(c)}>{html.escape(c.label + ARROWS[c.better])}</th>" for c in table.columns)
    body = []
    for row in table.rows:
        cells = []
        for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True)):
            main, interval = figure(cell, column, row.kind == "difference")
            small = f"<small>{html.escape(interval)}</small>" if interval else ""
            kind = ' class="long"' if i in long else _class(column)
            label = f' data-label="{html.escape(column.label)}"' if long else ""
            cells.append(f"<td{kind}{label}>{html.escape(main)}{small}</td>")
        body.append(f'<tr class="{row.kind}">{"".join(cells)}</tr>')
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    texts = ' class="texts"' if len(long) > 1 else ""
    return (
        f'<section id="{table.name}"><h2>{html.escape(table.title)}</h2><div class="scroll"><table{texts}>'
        f"<thead>{spans}<tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<ul class="notes">{notes}</ul></section>'
    )


def _class(column: Column) -> str:
    return "" if column.style == "text" else ' class="number"'


def _number(value: float, column: Column, signed: bool = False) -> str:
    signed = signed or column.signed
    if column.style == "score":
        return _fixed(value, 4, signed)
    if column.style == "percent":
        return f"{_fixed(100 * value, 1, signed)} %"
    if column.style == "count":
        return f"{value:+,.0f}" if signed and value else f"{value:,.0f}"
    return show(value)


def _fixed(value: float, digits: int, signed: bool = False) -> str:
    """Never '-0.000'."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text if float(text) else text.replace("-", "+" if signed else "")


def _interval(cell: Estimate, column: Column) -> tuple[str, str] | None:
    if cell.low is None or cell.high is None:
        return None
    if column.style == "count":
        return _number(cell.low, column), _number(cell.high, column)
    times, digits = (100, 1) if column.style == "percent" else (1, 3)
    return _fixed(times * cell.low, digits, column.signed), _fixed(times * cell.high, digits, column.signed)


TEX = {
    "\\": "\\textbackslash{}",
    "&": "\\&",
    "%": "\\%",
    "$": "\\$",
    "#": "\\#",
    "_": "\\_",
    "{": "\\{",
    "}": "\\}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "λ": "$\\lambda$",
    "×": "$\\times$",
    "·": "$\\cdot$",
    "≤": "$\\le$",
    "≥": "$\\ge$",
    "\n": " ",
}


def _tex(value: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in value)


def _tex_spans(columns: tuple[Column, ...]) -> list[str]:
    cells, rules, at = [], [], 1
    for span, same in groupby(columns, key=lambda c: c.span):
        n = len(list(same))
        cells.append(f"\\multicolumn{{{n}}}{{c}}{{{_tex(span)}}}" if span else " & ".join([""] * n))
        rules += [f"\\cmidrule(lr){{{at}-{at + n - 1}}}"] if span else []
        at += n
    return [" & ".join(cells) + " \\\\", " ".join(rules)]
