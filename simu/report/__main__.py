"""python -m simu.report PATHS… · compare A B · best PATHS…"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from simu.console import forgiving, inert, silence
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
    forgiving()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in PARSERS else ""
    try:
        _do(command, PARSERS[command]().parse_args(words[1:] if command else words))
    except UserError as error:
        _say_why(error)
        return 2
    except BrokenPipeError:  # … | head
        silence()
    except OSError as error:
        allowed = "allowed is a folder to write to (--out)"
        print(inert(f"simu.report: {error.filename}: {error.strerror}; {allowed}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("simu.report: stopped", file=sys.stderr)
        return 130
    return 0


def _do(command: str, options: argparse.Namespace) -> None:
    from simu.report import commands  # numpy, scipy, rich and the metric table: not for a word of help

    do = {"": commands.report, "compare": commands.compare_two, "best": commands.best_of}
    do[command](options)


def _say_why(error: UserError) -> None:
    """Where nothing could be read, every reason before the error."""
    skipped = getattr(error, "skipped", ())
    if len(skipped) > 1:
        from simu.report.commands import say_skipped

        say_skipped(skipped)
    print(inert(f"simu.report: {error}"), file=sys.stderr)


def _report() -> argparse.ArgumentParser:
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
    return parser


def _compare() -> argparse.ArgumentParser:
    about = "Two runs on the same rows: B − A with interval and p-value."
    parser = argparse.ArgumentParser("python -m simu.report compare", description=about)
    parser.add_argument("a", metavar="A", type=Path, help="folder of one run")
    parser.add_argument("b", metavar="B", type=Path, help="folder of another run on the same data")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write md, csv and tex there")
    return parser


def _best() -> argparse.ArgumentParser:
    about = (
        "For each model, data and method: the config with the best score among those that forget enough, and what "
        "the search chose for it, as overrides."
    )
    parser = argparse.ArgumentParser("python -m simu.report best", description=about)
    parser.add_argument("paths", nargs="+", metavar="PATHS", type=Path, help="folders of runs")
    parser.add_argument("--metric", help="what to choose by, in its own direction (default: the benchmark's aggregate)")
    parser.add_argument(
        "--where",
        action="append",
        metavar="'METRIC<=X'",
        default=[],
        help="constraint, may be repeated (default: what the benchmark counts as forgotten)",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("allowed is 1 or more")
    return value


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {"": _report, "compare": _compare, "best": _best}


if __name__ == "__main__":
    sys.exit(main())
