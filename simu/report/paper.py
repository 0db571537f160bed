"""The printed numbers of arXiv 2510.07822, read from the CSV files in simu/report/paper/.

Every row carries `note`: what the printed figure does not add up to, or "" (docs/reproducing.md lists them all).
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

Value = str | int | float
Row = dict[str, Value]


def table1() -> list[Row]:
    """TOFU results: data, model, method, aggregate, forget_em, forget_rouge_l, mia, retain_*, world_facts_*, note."""
    return _read("table1.csv")


def table2() -> list[Row]:
    """LUME results: data, model, method, aggregate, forget_reg, forget_kno, forget_task1_reg, …, mia, retain_*."""
    return _read("table2.csv")


def table3() -> list[Row]:
    """Mask settings: data, model, t, m, batch_size, note."""
    return _read("table3.csv")


def table4() -> list[Row]:
    """Unlearning settings: data, model, method, forget_examples, batch_size, learning_rate, epochs, retain_weight."""
    return _read("table4.csv")


def table5() -> list[Row]:
    """Critical neurons: data, model, total_mlp_neurons, critical_mlp_neurons, note."""
    return _read("table5.csv")


def printed(number: int) -> list[Row]:
    """The scores of Table 1 or 2; none for another number."""
    return {1: table1, 2: table2}.get(number, list)()


def notes(number: int) -> list[str]:
    """How the printed figures of a table are read."""
    return [str(row["note"]) for row in _read("notes.csv") if row["table"] == number]


def methods() -> list[str]:
    """The paper's methods in its order, the model before unlearning first."""
    return list(dict.fromkeys(str(row["method"]) for row in table1()))


def number(value: Value | None) -> float | None:
    """A printed figure; None for a cell that holds none."""
    return float(value) if isinstance(value, int | float) else None


def find(rows: list[Row], **keys: Value) -> Row | None:
    """The one row of a table with these values, else None: find(table1(), model="olmo_1b", method="simu")."""
    hits = [row for row in rows if all(row[key] == value for key, value in keys.items())]
    return hits[0] if len(hits) == 1 else None


def _read(name: str) -> list[Row]:
    return [dict(row) for row in _load(name)]


@cache
def _load(name: str) -> tuple[Row, ...]:
    """Rows with one type a column: int where every cell is one, else float where every cell is one, else text."""
    text = (files("simu.report") / "paper" / name).read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    columns = {key: _column([row[key] for row in rows]) for key in rows[0]}
    return tuple({key: columns[key][i] for key in columns} for i in range(len(rows)))


def _column(cells: list[str]) -> list[Value]:
    for kind in (int, float):
        try:
            return [kind(cell) for cell in cells]
        except ValueError:
            continue
    return list(cells)
