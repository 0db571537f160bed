"""A cell as text: the figure, its interval, the head above it."""

from __future__ import annotations

from simu.report.direction import arrow
from simu.report.estimate import Estimate
from simu.report.groups import show
from simu.report.table import Cell, Column, Row, Table

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


def head(column: Column, between: str = " ") -> str:
    """'Forget ROUGE-L ↓'"""
    return between.join(filter(None, (column.span, labelled(column))))


def labelled(column: Column) -> str:
    """'ROUGE-L ↓'"""
    return " ".join(filter(None, (column.label, arrow(column.better))))


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
