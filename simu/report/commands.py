"""What `python -m simu.report` does once its words are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from simu.console import inert
from simu.metrics.benchmarks import BENCHMARKS
from simu.report import best, compare
from simu.report.attacks import attack_table
from simu.report.collect import SAME, Skipped, collect
from simu.report.columns import benchmark, ranked
from simu.report.figures.draw import draw
from simu.report.groups import group, originals
from simu.report.render.terminal import terminal
from simu.report.run import Run
from simu.report.samples import sample_tables
from simu.report.table import Table, distinct
from simu.report.tables.paper import paper_tables
from simu.report.tables.runs import all_metrics, run_tables, runs_of
from simu.report.write import not_drawn, write, write_tables
from simu.types import UserError

LONGEST = 40  # of our rows: a longer list of runs is read in the files


def report(options: argparse.Namespace) -> None:
    """Every table and figure over some paths: to the terminal and to files."""
    runs, skipped = collect(options.paths)
    groups, before = group(runs), originals(runs)
    made = [
        *paper_tables(groups, before),
        *sample_tables(groups, options.rows, options.sample_seed),
        *run_tables(groups, before),
        *filter(None, [attack_table(groups)]),
    ]
    made = [replace(table, name=name) for table, name in zip(made, distinct([t.name for t in made]), strict=True)]
    every = all_metrics([*before, *groups])
    failed: list[Skipped] = []

    def miss(kind: str, error: Exception) -> None:
        failed.append(not_drawn(kind, error))

    pictures = [] if options.no_figures else draw(groups, before, miss)
    if not options.quiet:
        show([t for t in made if not repeats(t, made)], LONGEST)
    unusable = [*skipped, *damaged(runs), *failed]
    say_skipped(unusable)
    say_skipped(write(options.out, made, every, runs, unusable, pictures))
    found = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    print(inert(f"{found}, {len(skipped)} left out → {options.out / 'index.html'}"))


def compare_two(options: argparse.Namespace) -> None:
    """Two runs on the same rows."""
    a, b = compare.one_run(options.a), compare.one_run(options.b)
    made = [compare.config_table(a, b), compare.paired_table(a, b), compare.whole_table(a, b)]
    show(made)
    if options.out:
        write_tables(options.out, made)


def best_of(options: argparse.Namespace) -> None:
    """The winner of each model, data and method."""
    asked = [best.parse(text) for text in options.where]
    runs, skipped = collect(options.paths)
    say_skipped([*skipped, *damaged(runs)])
    groups = group(runs)
    known = {metric for g in groups for metric in g.metrics()}
    if not known:
        raise UserError(f"no run under {', '.join(map(str, options.paths))} was evaluated; allowed are evaluated runs")
    for name in filter(None, (options.metric, *(c.metric for c in asked))):
        if name not in known:
            raise UserError(f"{name}: no run has this metric; allowed are {', '.join(sorted(known))}")
    lines: list[str] = []
    for candidates in best.candidates(groups):
        limits = asked or best.default_constraints(candidates[0])
        metric = options.metric or ranked(benchmark(candidates[0].benchmark), candidates)
        won = best.winner(candidates, metric, limits)
        show([best.table(candidates, metric, limits, won)])
        lines += best.commands(candidates, metric, limits, won) if won else []
    if not lines:
        broken = " and ".join(map(str, asked)) or "the forgetting constraint"
        raise UserError(f"no config holds {broken}; allow more with --where")
    print("\n".join(map(inert, lines)))


def show(made: Sequence[Table], longest: int | None = None) -> None:
    """To the terminal; 160 columns where the output is not one. A note that several tables share is said once."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    said: set[str] = set()
    for table in made:
        if longest and sum(row.kind == "ours" for row in table.rows) > longest:
            where = f"{len(table.rows)} lines, in tables/{table.name}.md and index.html\n"
            console.print(f"{table.title}: {where}", markup=False)
            continue
        notes = tuple(note for note in table.notes if note not in said)
        said.update(notes)
        for part in terminal(replace(table, notes=notes), console.width):
            console.print(part)
            console.print()


def repeats(table: Table, made: Sequence[Table]) -> bool:
    """Whether the list of every run holds nothing but what the paper's table of the benchmark has shown."""
    shown = {t.name: sum(row.kind == "ours" for row in t.rows) for t in made}
    paper = {runs_of(bench.name): f"table{bench.number}" for bench in BENCHMARKS.values()}.get(table.name)
    return paper is not None and shown[table.name] == shown.get(paper)


def damaged(runs: Sequence[Run]) -> list[Skipped]:
    """Files of usable runs, and metrics in them, that could not be read."""
    return [Skipped(run.path / file, why) for run in runs for file, why in run.broken.items()]


def say_skipped(skipped: Sequence[Skipped]) -> None:
    """A line each; runs that another one repeats are counted, and named in the page alone."""
    repeated = [one for one in skipped if one.reason.startswith(SAME)]
    for one in skipped:
        if one not in repeated:
            print(inert(f"left out {one.path}: {one.reason}"), file=sys.stderr)
    if repeated:
        other = sum("not the same" in one.reason for one in repeated)
        but = f", {other} of them with other metrics (see Left out in index.html)" if other else ""
        many = f"{len(repeated)} run{'s'[: len(repeated) - 1]}"
        print(f"left out {many}: {SAME} as a newer run here{but}", file=sys.stderr)
