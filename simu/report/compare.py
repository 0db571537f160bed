"""Two runs on the same rows: what differs in their configs, and the paired difference of every score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simu.metrics.statistics import paired_difference, paired_scores
from simu.report.collect import Run, Skipped, read, run_folders
from simu.report.groups import Estimate, show
from simu.report.tables import Column, Row, Table
from simu.types import UserError

NOT_COMPARED = ("n_tokens",)


def one_run(path: Path) -> Run:
    """The run in a folder. Raises UserError where there is none, more than one, or one that cannot be used."""
    if not path.is_dir():
        raise UserError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}; allowed is a run's folder")
    folders = list(run_folders(path))
    if len(folders) != 1:
        found = f"{len(folders)} runs, the first {folders[0]}" if folders else "no run"
        raise UserError(f"{path}: {found}; allowed is the folder of one run")
    run = read(folders[0])
    if isinstance(run, Skipped):
        raise UserError(f"{run.path}: {run.reason}")
    return run


def config_table(a: Run, b: Run) -> Table:
    """Settings that differ, seeds and paths included."""
    left, right = ({"seed": run.seed, **run.settings()} for run in (a, b))
    rows = [
        Row((key, show(left.get(key)), show(right.get(key))))
        for key in sorted({*left, *right})
        if left.get(key) != right.get(key)
    ]
    columns = (Column(label="setting"), Column(label="A"), Column(label="B"))
    return Table(
        name="compare_config",
        title="What differs",
        columns=columns,
        rows=tuple(rows),
        notes=(f"A: {a.path}", f"B: {b.path}"),
    )


def paired_table(a: Run, b: Run) -> Table:
    """B − A for every score of every split, on the rows (split, id) that both runs have.

    Raises UserError where the runs share no row.
    """
    rows_a, rows_b = a.generations(), b.generations()
    for run in (a, b):
        if reason := run.broken.get("generations.jsonl"):
            raise UserError(f"{run.path / 'generations.jsonl'}: {reason}")
    rows = []
    for split, metric in sorted({*_scored(rows_a)} & {*_scored(rows_b)}):
        x, y = paired_scores(rows_a, rows_b, split, metric)
        if not x:
            continue
        d = paired_difference(y, x)
        change = Estimate(mean=d.mean, low=d.ci_low, high=d.ci_high, n=d.n, over="rows")
        rows.append(Row((split, metric, sum(x) / len(x), sum(y) / len(y), change, f"{d.p_value:.4f}", d.n)))
    if not rows:
        raise UserError(f"{a.path} and {b.path}: no scored row in common; allowed are two runs on the same data")
    columns = (
        Column(label="split"),
        Column(label="score"),
        Column(label="A", style="score"),
        Column(label="B", style="score"),
        Column(label="B − A", style="score", signed=True),
        Column(label="p"),
        Column(label="n rows", style="count"),
    )
    notes = (
        "Difference: paired bootstrap over rows, 95 % percentile interval; p: two-sided sign-flip permutation, not "
        "corrected for the number of lines.",
        f"Rows: {len(rows_a)} in A, {len(rows_b)} in B; only those in both count.",
    )
    return Table(name="compare_rows", title="Same rows, paired", columns=columns, rows=tuple(rows), notes=notes)


def whole_table(a: Run, b: Run) -> Table:
    """Metrics that are not means over rows (aggregate, membership AUC): side by side, without a paired interval."""
    skip = ("original/", "forget/", "retain/", "world_facts/", "real_authors/", "holdout/")
    names = [
        n
        for n in a.metrics
        if n in b.metrics
        and not n.startswith(skip)
        and not n.rsplit("/", 1)[-1].startswith(("ci_", "n_"))
        and not n.endswith("/n")
    ]
    rows = [Row((name, a.metrics[name], b.metrics[name], b.metrics[name] - a.metrics[name])) for name in sorted(names)]
    columns = (
        Column(label="metric"),
        Column(label="A", style="score"),
        Column(label="B", style="score"),
        Column(label="B − A", style="score", signed=True),
    )
    return Table(name="compare_metrics", title="Whole-run metrics", columns=columns, rows=tuple(rows))


def _scored(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {
        (str(row["split"]), name)
        for row in rows
        if isinstance(row.get("scores"), Mapping)
        for name, value in row["scores"].items()
        if isinstance(value, int | float) and name not in NOT_COMPARED and not name.startswith("mia_")
    }
