"""Two runs on the same rows: what differs in their configs, and the paired difference of every score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simu.metrics.metric import PREFIXES, SUFFIXES, find
from simu.metrics.statistics import paired_difference, paired_scores
from simu.report.collect import Skipped, read, run_folders
from simu.report.direction import arrow, better
from simu.report.estimate import Estimate
from simu.report.groups import show
from simu.report.run import Run
from simu.report.table import Column, Row, Table, counted, texts
from simu.types import UserError

SIDES = (
    Column(label="A", style="score"),
    Column(label="B", style="score"),
    Column(label="B − A", style="score", signed=True),
)


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
    """Settings that differ, the seed included."""
    left, right = ({"seed": run.seed, **run.settings} for run in (a, b))
    rows = [
        Row((key, show(left.get(key)), show(right.get(key))))
        for key in sorted({*left, *right})
        if left.get(key) != right.get(key)
    ]
    return Table(
        name="compare_config",
        title="What differs",
        columns=texts("setting", "A", "B"),
        rows=tuple(rows),
        notes=(f"A: {a.path}", f"B: {b.path}"),
    )


def paired_table(a: Run, b: Run) -> Table:
    """B − A for every score of every split, on the rows (split, id) that both runs have.

    A row score counts where the runs average it (metrics.json has SPLIT/SCORE); others are kept for other uses. Raises
    UserError where the runs share no row.
    """
    rows_a, rows_b = a.generations(), b.generations()
    for run in (a, b):
        if reason := run.broken.get("generations.jsonl"):
            raise UserError(f"{run.path / 'generations.jsonl'}: {reason}")
    rows = []
    for split, name in sorted({*_scored(rows_a)} & {*_scored(rows_b)}):
        key = f"{split}/{name}"
        x, y = paired_scores(rows_a, rows_b, split, name) if key in a.metrics or key in b.metrics else ([], [])
        if x:
            d = paired_difference(y, x)
            change = Estimate(mean=d.mean, low=d.ci_low, high=d.ci_high, n=d.n, over="rows")
            means = (sum(x) / len(x), sum(y) / len(y))
            rows.append(Row((split, name, *means, change, f"{d.p_value:.4f}", d.n, arrow(better(key)))))
    if not rows:
        raise UserError(f"{a.path} and {b.path}: no scored row in common; allowed are two runs on the same data")
    notes = (
        "Difference: paired bootstrap over rows, 95 % percentile interval; p: two-sided sign-flip permutation, not "
        "corrected for the number of lines.",
        f"Rows: {len(rows_a)} in A, {len(rows_b)} in B; only those in both count.",
    )
    columns = (*texts("split", "score"), *SIDES, *texts("p"), counted("n rows"), *texts("better"))
    return Table(name="compare_rows", title="Same rows, paired", columns=columns, rows=tuple(rows), notes=notes)


def whole_table(a: Run, b: Run) -> Table:
    """Metrics that are not means over rows: side by side, without a paired interval."""
    names = sorted(name for name in a.metrics if name in b.metrics and _is_whole(name))
    rows = [
        Row((name, a.metrics[name], b.metrics[name], b.metrics[name] - a.metrics[name], arrow(better(name))))
        for name in names
    ]
    columns = (*texts("metric"), *SIDES, *texts("better"))
    return Table(name="compare_metrics", title="Whole-run metrics", columns=columns, rows=tuple(rows))


def _is_whole(name: str) -> bool:
    """Of the model after unlearning, no count and no interval's end, and no mean over rows as far as is known."""
    parts = name.split("/")
    found = find(name)
    said = parts[0] not in PREFIXES and parts[-1] not in SUFFIXES
    return said and (found is None or found.metric.aggregate != "mean")


def _scored(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {
        (str(row["split"]), name)
        for row in rows
        if isinstance(row.get("scores"), Mapping)
        for name, value in row["scores"].items()
        if isinstance(value, int | float)
    }
