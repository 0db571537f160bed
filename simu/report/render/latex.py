"""A table as LaTeX."""

from __future__ import annotations

from itertools import groupby

from simu.report.render.cells import figure, labelled
from simu.report.table import Column, Table, compact

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
    "↓": "$\\downarrow$",
    "↑": "$\\uparrow$",
    "→": "$\\rightarrow$",
    "\n": " ",
}


def latex(table: Table) -> str:
    """A booktabs table* with \\caption and \\label, notes as comments."""
    table = compact(table)
    spec = "".join("l" if c.style == "text" else "r" for c in table.columns)
    lines = ["% \\usepackage{booktabs,graphicx}; generated texts may need XeLaTeX or LuaLaTeX for their letters"]
    lines += [f"% {' '.join(note.split())}" for note in table.notes]
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
        lines += _spans(table.columns)
    lines += [" & ".join(_tex(labelled(c)) for c in table.columns) + " \\\\", "\\midrule"]
    for row in table.rows:
        cells = []
        for cell, column in zip(row.cells, table.columns, strict=True):
            main, interval = figure(cell, column, row.kind == "difference")
            cells.append(f"{_tex(main)} {{\\scriptsize {interval}}}" if interval else _tex(main))
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}}", "\\end{table*}", ""])


def _tex(value: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in value)


def _spans(columns: tuple[Column, ...]) -> list[str]:
    cells, rules, at = [], [], 1
    for span, same in groupby(columns, key=lambda c: c.span):
        n = len(list(same))
        cells.append(f"\\multicolumn{{{n}}}{{c}}{{{_tex(span)}}}" if span else " & ".join([""] * n))
        rules += [f"\\cmidrule(lr){{{at}-{at + n - 1}}}"] if span else []
        at += n
    return [" & ".join(cells) + " \\\\", " ".join(rules)]
