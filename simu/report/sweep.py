"""The end of a sweep: its jobs' figures side by side, and the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simu.report import best
from simu.report.collect import read
from simu.report.columns import benchmark, columns, label, main_keys, ranked
from simu.report.commands import show
from simu.report.groups import Group, group
from simu.report.run import Run
from simu.report.table import Row, Table, counted, texts, without_empty


def show_sweep(jobs: Mapping[Path, int]) -> None:
    """Print a table for each benchmark, data and model of the evaluated jobs (folder → number), and its winner."""
    runs = [found for folder in jobs if isinstance(found := read(folder), Run)]
    asked: dict[tuple[str, str, str], list[Group]] = {}
    for g in group(runs):
        if g.evaluated:
            asked.setdefault((g.benchmark, g.place, g.model), []).append(g)
    for groups in asked.values():
        made, winner = sweep_table(groups, jobs)
        show([made])
        print(winner)


def sweep_table(groups: Sequence[Group], jobs: Mapping[Path, int]) -> tuple[Table, str]:
    """Configs that were asked the same, in the order of their jobs, and a line that names the winner: the best value,
    a mean over seeds, of what the benchmark ranks by (its fair aggregate), among those that forget enough."""
    bench, limits = benchmark(groups[0].benchmark), best.default_constraints(groups[0])
    by = ranked(bench, groups)
    won = best.winner(groups, by, limits)
    keys = [key for key in main_keys(bench, groups) if key in bench.main or not bench.main]
    keys = [*([] if by in keys else [by]), *keys]
    rows = tuple(
        Row((_numbers(g, jobs), g.label(), *map(g.estimate, keys), g.seeds, _verdict(g, won)))
        for g in sorted(groups, key=lambda g: min(jobs[run.path] for run in g.runs))
    )
    heads = (*texts("job", "config"), *columns(keys, bench.main), counted("seeds"), *texts(""))
    g = groups[0]
    table = without_empty(Table(name="sweep", title=f"The sweep: {g.model} on {g.place}", columns=heads, rows=rows))
    where = f" among those with {' and '.join(map(str, limits))}" if limits else ""
    if won is None:
        return table, f"winner by {label(by)}{where}: none"
    found = won.estimate(by)
    assert found is not None
    fallen = "; its model has collapsed" if _collapsed(won) else ""
    return table, f"winner by {label(by)}{where}: {won.label()}, {found.mean:.3f}{fallen}"


def _numbers(g: Group, jobs: Mapping[Path, int]) -> str:
    return ", ".join(f"#{number}" for number in sorted(jobs[run.path] for run in g.runs))


def _verdict(g: Group, won: Group | None) -> str:
    return ", ".join([*(["winner"] if g is won else []), *(["collapsed"] if _collapsed(g) else [])])


def _collapsed(g: Group) -> bool:
    """By what its runs say of themselves."""
    return bool(getattr(g, "collapse", ""))
