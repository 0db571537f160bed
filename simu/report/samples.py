"""Tables 6 and 7: what the models answer, on a seeded sample of rows that every shown run was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simu.report.columns import SPLITS, benchmark
from simu.report.groups import ORIGINAL, Group
from simu.report.nearest import method_rank, nearest_to_preset
from simu.report.run import Run
from simu.report.table import Row, Table, file_name, texts

LONGEST = 240  # letters of a text that a table shows
Answers = Mapping[tuple[str, str], Mapping[str, Any]]
"""(split, id) → row."""


def sample_tables(groups: Sequence[Group], per_split: int = 3, seed: int = 0) -> list[Table]:
    """One table for each model and data: question, gold answer, the answer before unlearning, and that of each method
    nearest to its preset. Rows are drawn by `seed` from those that all runs share."""
    tables = []
    nearest = nearest_to_preset([g for g in groups if g.evaluated])
    for place, model in sorted({(g.place, g.model) for g in nearest}):
        shown = [g for g in nearest if (g.place, g.model) == (place, model)]
        shown.sort(key=lambda g: method_rank(g.method))
        answers = {_head(g): answered for g in shown if (answered := _answers(g.first))}
        answers = _before(answers) | answers
        if answers:
            number = benchmark(shown[0].benchmark).generations
            name = file_name(f"{f'table{number}' if number else 'generations'}_{model}_{place}")
            title = f"{f'Table {number}: g' if number else 'G'}enerations, {model} on {place}"
            tables.append(_table(name, title, answers, per_split, seed))
    return [table for table in tables if table.rows]


def _head(g: Group) -> str:
    """The method, with the options that it does not pick by itself."""
    return g.kind.replace(f" · {g.mask}", "", 1)


def _table(name: str, title: str, answers: Mapping[str, Answers], per_split: int, seed: int) -> Table:
    shared = sorted(set.intersection(*(set(rows) for rows in answers.values())))
    rng = np.random.default_rng(seed)
    rows = []
    for split in dict.fromkeys([*SPLITS, *(split for split, _ in shared)]):
        keys = [key for key in shared if key[0] == split]
        for i in sorted(rng.permutation(len(keys))[:per_split].tolist()):
            row = next(iter(answers.values()))[keys[i]]
            asked = [_shorten(str(row.get(key, ""))) for key in ("prompt", "answer")]
            said = [_shorten(by_key[keys[i]]["generated"]) for by_key in answers.values()]
            rows.append(Row((split, keys[i][1], *asked, *said)))
    notes = (
        f"{per_split} rows a split of the {len(shared)} that all runs share, drawn with seed {seed}; each method's "
        f"config nearest to its preset, its first seed; texts cut at {LONGEST} letters; a letter that is repeated 10 "
        "times or more is given with its count.",
    )
    columns = texts("split", "row", "question", "answer", *answers)
    return Table(name=name, title=title, columns=columns, rows=tuple(rows), notes=notes)


def _answers(run: Run) -> Answers:
    """Of the rows that something was generated for."""
    rows = run.generations()
    return {(str(row["split"]), str(row["id"])): row for row in rows if isinstance(row.get("generated"), str)}


def _before(answers: Mapping[str, Answers]) -> dict[str, Answers]:
    """What the model said before unlearning, as the first run's rows have it."""
    rows = next(iter(answers.values()), {})
    said = {
        key: {**row, "generated": row["original"]} for key, row in rows.items() if isinstance(row.get("original"), str)
    }
    return {ORIGINAL: said} if said else {}


def _shorten(text: str) -> str:
    """On one line, cut; a run of one letter as the letter and how often: '�…(×97)'."""
    flat = re.sub(r"(\S)\1{9,}", lambda run: f"{run[1] * 3}…(×{len(run[0])})", " ".join(text.split()))
    return f"{flat[:LONGEST]}…" if len(flat) > LONGEST else flat or "(empty)"
