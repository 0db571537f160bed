"""python -m simu.report PATHS… · compare A B · best PATHS…"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from simu.progress import track
from simu.report import best, compare, figures, render, samples, tables
from simu.report.collect import SAME, NothingFinished, Run, Skipped, collect
from simu.report.groups import group, originals
from simu.report.page import page
from simu.report.tables import Table
from simu.types import UserError

ABOUT = """\
Tables and figures over finished runs, the paper's printed figures beside ours.

  python -m simu.report PATHS…            every table and figure: terminal, md, csv, tex, png, pdf, one HTML page
  python -m simu.report compare A B       two runs on the same rows: paired differences with intervals
  python -m simu.report best PATHS…       the winner of a search among the configs that forget enough

Runs are known by their config, not by their folder: seeds of one config become one row. A path without runs, a
half-written or failed run and a run of another schema are named and left out; the rest is reported."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 where the user can mend it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in COMMANDS else ""
    try:
        PARSERS[command](words[1:] if command else words)
    except UserError as error:
        if isinstance(error, NothingFinished) and len(error.skipped) > 1:
            say_skipped(error.skipped)
        print(f"simu.report: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(
            f"simu.report: {error.filename}: {error.strerror}; allowed is a folder to write to (--out)", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("simu.report: stopped", file=sys.stderr)
        return 130
    return 0


def report(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m simu.report", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATHS", type=Path, help="run folders, or folders of runs")
    parser.add_argument(
        "--out", type=Path, default=Path("report"), metavar="DIR", help="where to write (default: report)"
    )
    parser.add_argument("--no-figures", action="store_true", help="tables only (no matplotlib needed)")
    parser.add_argument("--quiet", action="store_true", help="write the files, print no table")
    parser.add_argument("--rows", type=_positive, default=3, metavar="N", help="generations shown a split (default: 3)")
    parser.add_argument("--sample-seed", type=int, default=0, metavar="S", help="which generations (default: 0)")
    options = parser.parse_args(words)

    runs, skipped = collect(options.paths)
    groups, before = group(runs), originals(runs)
    main_tables = [
        *tables.paper_tables(groups, before),
        *samples.sample_tables(groups, options.rows, options.sample_seed),
        *tables.run_tables(groups, before),
    ]
    every = tables.all_metrics([*before, *groups])
    pictures = [] if options.no_figures else figures.draw(groups, before)
    if not options.quiet:
        show([t for t in main_tables if not repeats(t, main_tables)], LONGEST)
    unusable = [*skipped, *damaged(runs)]
    say_skipped(unusable)
    write(options.out, main_tables, every, runs, unusable, pictures)
    print(f"{_runs(len(runs))}, {len(skipped)} left out → {options.out / 'index.html'}")


def compare_two(words: Sequence[str]) -> None:
    about = "Two runs on the same rows: B − A with interval and p-value."
    parser = argparse.ArgumentParser("python -m simu.report compare", description=about)
    parser.add_argument("a", metavar="A", type=Path, help="folder of one run")
    parser.add_argument("b", metavar="B", type=Path, help="folder of another run on the same data")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write md, csv and tex there")
    options = parser.parse_args(words)
    a, b = compare.one_run(options.a), compare.one_run(options.b)
    made = [compare.config_table(a, b), compare.paired_table(a, b), compare.whole_table(a, b)]
    show(made)
    if options.out:
        write_tables(options.out, made)


def best_of(words: Sequence[str]) -> None:
    about = (
        "For each model, data and method: the config with the highest score among those that forget enough, and what "
        "the search chose for it, as overrides."
    )
    parser = argparse.ArgumentParser("python -m simu.report best", description=about)
    parser.add_argument("paths", nargs="+", metavar="PATHS", type=Path, help="folders of runs")
    parser.add_argument("--metric", default="aggregate", help="what to maximise (default: aggregate)")
    parser.add_argument(
        "--where",
        action="append",
        metavar="'METRIC<=X'",
        default=[],
        help="constraint, may be repeated (default: forget/rouge_l_recall<=0.3; LUME: forget/regurgitation<=0.3)",
    )
    options = parser.parse_args(words)
    asked = [best.parse(text) for text in options.where]
    runs, skipped = collect(options.paths)
    say_skipped([*skipped, *damaged(runs)])
    groups = group(runs)
    known = {metric for g in groups for metric in g.metrics()}
    if not known:
        raise UserError(f"no run under {', '.join(map(str, options.paths))} was evaluated; allowed are evaluated runs")
    for name in (options.metric, *(c.metric for c in asked)):
        if name not in known:
            raise UserError(f"{name}: no run has this metric; allowed are {', '.join(sorted(known))}")
    lines: list[str] = []
    for candidates in best.candidates(groups):
        limits = asked or [best.default_constraint(candidates[0])]
        won = best.winner(candidates, options.metric, limits)
        show([best.table(candidates, options.metric, limits, won)])
        if won:
            lines.append(f"python -m simu.run {best.overrides(won, candidates)}")
    if not lines:
        broken = " and ".join(map(str, asked)) or "the forgetting constraint"
        raise UserError(f"no config holds {broken}; allow more with --where")
    print("\n".join(lines))


COMMANDS = ("compare", "best")
PARSERS = {"": report, "compare": compare_two, "best": best_of}


LONGEST = 40  # of our rows: a longer list of runs is read in the files


def show(made: Sequence[Table], longest: int | None = None) -> None:
    """To the terminal; 160 columns where the output is not one. A note that several tables share is said once."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    said: set[str] = set()
    for table in made:
        if longest and sum(row.kind == "ours" for row in table.rows) > longest:
            console.print(f"{table.title}: {len(table.rows)} lines, in tables/{table.name}.md and index.html\n")
            continue
        notes = tuple(note for note in table.notes if note not in said)
        said.update(notes)
        for part in render.terminal(replace(table, notes=notes), console.width):
            console.print(part)
            console.print()


def repeats(table: Table, made: Sequence[Table]) -> bool:
    """Whether the list of every run holds nothing but what Table 1 or 2 has shown."""
    shown = {t.name: sum(row.kind == "ours" for row in t.rows) for t in made}
    paper = {"runs_qa": "table1", "runs_lume": "table2"}.get(table.name)
    return paper is not None and shown[table.name] == shown.get(paper)


def damaged(runs: Sequence[Run]) -> list[Skipped]:
    """Files of usable runs, and metrics in them, that could not be read."""
    return [Skipped(run.path / file, why) for run in runs for file, why in run.broken.items()]


def say_skipped(skipped: Sequence[Skipped]) -> None:
    """A line each; runs that another one repeats are counted, and named in the page alone."""
    repeated = [one for one in skipped if one.reason.startswith(SAME)]
    for one in skipped:
        if one not in repeated:
            print(f"left out {one.path}: {one.reason}", file=sys.stderr)
    if repeated:
        other = sum("not the same" in one.reason for one in repeated)
        but = f", {other} of them with other metrics (see Left out in index.html)" if other else ""
        print(
            f"left out {len(repeated)} run{'s'[: len(repeated) - 1]}: {SAME} as a newer run here{but}", file=sys.stderr
        )


def write(
    out: Path,
    made: Sequence[Table],
    every: Table,
    runs: Sequence[Run],
    skipped: Sequence[Skipped],
    pictures: Sequence[figures.Picture],
) -> None:
    """tables/NAME.{md,csv,tex}, figures/NAME.{png,pdf}, report.md and index.html. Says where older files stay."""
    write_tables(out / "tables", [*made, every])
    folder = _folder(out / "figures")
    drawn = track(pictures, "figures", len(pictures)) if pictures else ()
    inline = [(p.name, p.title, p.caption, figures.save(p, folder)[0]) for p in drawn]
    _text(out / "report.md", "\n".join(["# Report", "", *map(render.markdown, made)]))
    _text(out / "index.html", page(made, inline, runs, skipped, folded=[every]))
    names = {t.name for t in (*made, every)} | {p.name for p in pictures}
    if old := sorted({p.stem for part in ("tables", "figures") for p in (out / part).iterdir()} - names):
        print(f"left in {out} from an earlier report: {', '.join(old)}", file=sys.stderr)


def write_tables(folder: Path, made: Sequence[Table]) -> None:
    _folder(folder)
    for table in made:
        _text(folder / f"{table.name}.md", render.markdown(table))
        _text(folder / f"{table.name}.csv", render.comma_separated(table))
        _text(folder / f"{table.name}.tex", render.latex(table))


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; allowed is a folder that can be written") from error
    return path


def _text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("allowed is 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
