"""One table, five dresses: terminal (rich), Markdown, CSV, LaTeX, HTML. Pure functions of a Table."""

from __future__ import annotations

import csv
import html
import io
from itertools import groupby

from rich.table import Table as RichTable
from rich.text import Text

from simu.report.groups import Estimate, show
from simu.report.tables import Cell, Column, Row, Table

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


WIDE = 14  # columns; wider tables are turned on their side on a terminal


def terminal(table: Table) -> list[RichTable]:
    """For rich's console; intervals under their figure, printed rows dim. A wide table becomes one a model and data,
    metrics down and methods across, or keeps its main columns only where there are too many rows for that."""
    if len(table.columns) < WIDE:
        return [_upright(table)]
    parts = [list(rows) for _, rows in groupby(table.rows, key=lambda row: row.cells[:2])]
    if max(sum(row.kind == "ours" for row in rows) for rows in parts) <= 5:
        return [_turned(table, rows, table.notes if rows is parts[-1] else ()) for rows in parts]
    kept = [i for i, c in enumerate(table.columns) if c.style == "text" or c.main]
    return [_upright(Table(name=table.name, title=f"{table.title} (main columns; all of them are in the files)",
                           columns=tuple(table.columns[i] for i in kept), notes=table.notes,
                           rows=tuple(Row(tuple(r.cells[i] for i in kept), r.kind) for r in table.rows)))]  # fmt: skip


def _upright(table: Table) -> RichTable:
    out = _frame(table.title, table.notes)
    for column in table.columns:
        out.add_column(_head(column), justify="left" if column.style == "text" else "right", overflow="fold")
    rows = list(table.rows)
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].kind == "ours"
        style = {"ours": "", "paper": "dim", "difference": "cyan"}[row.kind]
        out.add_row(*map(Text, text(table, row, "\n")), style=style, end_section=last and len(table.columns) > 6)
    return out


def _turned(table: Table, rows: list[Row], notes: tuple[str, ...]) -> RichTable:
    """Labels across, figures down: one column for each of our rows, printed figure and difference inside its cell."""
    labels = [i for i, c in enumerate(table.columns) if c.style == "text" and i < 6]
    data, model = rows[0].cells[:2]
    out = _frame(f"{table.title} – {model} on {data}", notes)
    out.add_column("")
    blocks: list[list[Row]] = []
    for row in rows:
        if row.kind == "ours":
            out.add_column("\n".join(str(row.cells[i]) for i in labels[2:] if row.cells[i] not in ("ours", "")))
            blocks.append([])
        blocks[-1].append(row)
    for i, column in enumerate(table.columns):
        if i in labels or all(row.cells[i] is None for row in rows):
            continue
        cells = []
        for block in blocks:
            lines = [Text(" ".join(filter(None, figure(block[0].cells[i], column))))]
            for row in block[1:]:
                if row.cells[i] is not None:
                    number, _ = figure(row.cells[i], column, row.kind == "difference")
                    lines.append(Text(f"{row.kind} {number}", style="dim" if row.kind == "paper" else "cyan"))
            cells.append(Text("\n").join(lines))
        out.add_row(_head(column, " "), *cells)
    return out


def _frame(title: str, notes: tuple[str, ...]) -> RichTable:
    return RichTable(title=title, title_justify="left", title_style="bold", caption="\n".join(notes),
                     caption_justify="left", pad_edge=False)  # fmt: skip


def _head(column: Column, between: str = "\n") -> str:
    return between.join(filter(None, (column.span, column.label + ARROWS[column.better])))


def markdown(table: Table) -> str:
    """A pipe table under a heading, notes below."""
    heads = [" ".join(filter(None, (c.span, c.label))) + ARROWS[c.better] for c in table.columns]
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join("---" if c.style == "text" else "---:" for c in table.columns) + "|")
    for row in table.rows:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in text(table, row)]
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
    """A booktabs table* with \\caption and \\label, notes as comments; needs booktabs and graphicx."""
    spec = "".join("l" if c.style == "text" else "r" for c in table.columns)
    lines = [f"% {note}" for note in table.notes]
    lines += ["\\begin{table*}", "\\centering", f"\\caption{{{_tex(table.title)}}}", f"\\label{{tab:{table.name}}}",
              "\\resizebox{\\textwidth}{!}{%", f"\\begin{{tabular}}{{{spec}}}", "\\toprule"]  # fmt: skip
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
    """A <table> inside a <figure>, notes as a list."""
    spans = ""
    if any(c.span for c in table.columns):
        wide = [(span, len(list(same))) for span, same in groupby(table.columns, key=lambda c: c.span)]
        spans = "".join(f'<th colspan="{n}"{" class=span" if s else ""}>{html.escape(s)}</th>' for s, n in wide)
        spans = f"<tr>{spans}</tr>"
    heads = "".join(f"<th{_class(c)}>{html.escape(c.label + ARROWS[c.better])}</th>" for c in table.columns)
    body = []
    for row in table.rows:
        cells = []
        for cell, column in zip(row.cells, table.columns, strict=True):
            main, interval = figure(cell, column, row.kind == "difference")
            small = f"<small>{html.escape(interval)}</small>" if interval else ""
            long = ' class="long"' if column.style == "text" and len(main) > 40 else _class(column)
            cells.append(f"<td{long}>{html.escape(main)}{small}</td>")
        body.append(f'<tr class="{row.kind}">{"".join(cells)}</tr>')
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f'<section id="{table.name}"><h2>{html.escape(table.title)}</h2><div class="scroll"><table>'
        f"<thead>{spans}<tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<ul class="notes">{notes}</ul></section>'
    )


def _class(column: Column) -> str:
    return "" if column.style == "text" else ' class="number"'


def _number(value: float, column: Column, signed: bool = False) -> str:
    if column.style == "score":
        return f"{value:+.4f}" if signed else f"{value:.4f}"
    if column.style == "percent":
        return f"{100 * value:+.1f} %" if signed else f"{100 * value:.1f} %"
    if column.style == "count":
        return f"{value:+,.0f}" if signed and value else f"{value:,.0f}"
    return show(value)


def _interval(cell: Estimate, column: Column) -> tuple[str, str] | None:
    if cell.low is None or cell.high is None:
        return None
    if column.style == "score":
        return f"{cell.low:.3f}", f"{cell.high:.3f}"
    return _number(cell.low, column), _number(cell.high, column)


TEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$", "λ": "$\\lambda$",
    "×": "$\\times$", "·": "$\\cdot$", "≤": "$\\le$", "≥": "$\\ge$", "\n": " ",
}  # fmt: skip


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
