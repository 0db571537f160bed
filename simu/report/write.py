"""Every file of a report, each whole or not there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from simu.progress import track
from simu.report.collect import Skipped
from simu.report.figures.canvas import Picture, png_and_pdf
from simu.report.page import Drawn, page
from simu.report.render.files import comma_separated, markdown
from simu.report.render.latex import latex
from simu.report.run import Run
from simu.report.table import Table
from simu.store.files import write_atomic
from simu.types import UserError


def write(
    out: Path,
    made: Sequence[Table],
    every: Table,
    runs: Sequence[Run],
    skipped: Sequence[Skipped],
    pictures: Sequence[Picture],
) -> list[Skipped]:
    """tables/NAME.{md,csv,tex}, figures/NAME.{png,pdf}, report.md and index.html. Says where older files stay.

    Returns the figures that could not be made.
    """
    write_tables(out / "tables", [*made, every])
    folder = _folder(out / "figures")
    drawn, failed = [], []
    for picture in track(pictures, "figures", len(pictures)) if pictures else ():
        try:
            png, pdf = png_and_pdf(picture)
        except Exception as error:  # no run's content may cost the rest of the report
            failed.append(not_drawn(picture.name, error))
            continue
        write_atomic(folder / f"{picture.name}.png", png)
        write_atomic(folder / f"{picture.name}.pdf", pdf)
        drawn.append(Drawn(picture.name, picture.title, picture.caption, png))
    write_atomic(out / "report.md", "\n".join(["# Report", "", *map(markdown, made)]))
    write_atomic(out / "index.html", page(made, drawn, runs, [*skipped, *failed], folded=[every]))
    names = {t.name for t in (*made, every)} | {p.name for p in pictures}
    if old := sorted({p.stem for part in ("tables", "figures") for p in (out / part).iterdir()} - names):
        print(f"left in {out} from an earlier report: {', '.join(old)}", file=sys.stderr)
    return failed


def not_drawn(name: str, error: Exception) -> Skipped:
    """A figure that a run's content made impossible."""
    reason = " ".join(str(error).split())[:200]
    return Skipped(Path("figures") / name, f"could not be drawn: {type(error).__name__}: {reason}")


def write_tables(folder: Path, made: Sequence[Table]) -> None:
    """NAME.md, NAME.csv and NAME.tex of each table."""
    _folder(folder)
    for table in made:
        write_atomic(folder / f"{table.name}.md", markdown(table))
        write_atomic(folder / f"{table.name}.csv", comma_separated(table))
        write_atomic(folder / f"{table.name}.tex", latex(table))


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: {error.strerror}; allowed is a folder that can be written") from error
    return path
