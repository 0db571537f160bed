"""What the page's templates are filled with: plain values, escaped by the template engine and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from simu.report.render.cells import figure, head, labelled
from simu.report.table import Column, Table, compact

LONG = 40  # letters from which a text may be broken


@cache
def environment() -> Environment:
    """Templates of simu/report/templates, everything that is put into them escaped."""
    return Environment(
        loader=PackageLoader("simu.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def hypertext(table: Table) -> str:
    """A <table> in a <section>, notes as a list."""
    return environment().get_template("section.html.j2").render(table=view(table))


def view(table: Table) -> Mapping[str, Any]:
    """A table as the template section.html.j2 reads it."""
    table = compact(table)
    long = {
        i
        for i, c in enumerate(table.columns)
        if c.style == "text" and any(len(str(row.cells[i])) > LONG for row in table.rows)
    }
    classes = ["long" if i in long else "" if c.style == "text" else "number" for i, c in enumerate(table.columns)]
    rows = []
    for row in table.rows:
        cells = []
        for cell, column, kind in zip(row.cells, table.columns, classes, strict=True):
            main, interval = figure(cell, column, row.kind == "difference")
            label = head(column) if long else ""
            cells.append({"text": main, "interval": interval, "kind": kind, "label": label})
        rows.append({"kind": row.kind, "cells": cells})
    spans = [(span, len(list(same))) for span, same in groupby(table.columns, key=lambda c: c.span)]
    return {
        "name": table.name,
        "title": table.title,
        "texts": len(long) > 1,
        "spans": spans if any(c.span for c in table.columns) else [],
        "heads": [(labelled(c), _head_class(c)) for c in table.columns],
        "rows": rows,
        "notes": table.notes,
    }


def _head_class(column: Column) -> str:
    classes = ("" if column.style == "text" else "number", "long" if len(column.label) > LONG // 2 else "")
    return " ".join(filter(None, classes))
