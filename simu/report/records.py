"""Where the numbers came from, and which runs gave none: the two tables at the end of the page."""

from __future__ import annotations

from collections.abc import Sequence

from simu.report.collect import Skipped
from simu.report.run import Run, mapping
from simu.report.table import Row, Table, counted, texts


def provenance(runs: Sequence[Run]) -> Table:
    """The result card of every run: command, code, versions, machine, time."""
    return Table(
        name="provenance",
        title="Provenance",
        columns=(*texts("run", "command", "commit", "versions", "machine", "finished"), counted("seconds")),
        rows=tuple(map(_card, runs)),
        notes=("Seconds of the stages that this run computed itself; stages taken from the cache are not in it.",),
    )


def _card(run: Run) -> Row:
    p = run.provenance
    git, machine = mapping(p, "git"), mapping(p, "machine")
    gpus = machine.get("gpus")
    parts = [str(machine.get("processor") or ""), f"{machine.get('cores', '?')} cores"]
    spent = [s.get("seconds") for s in mapping(p, "stages").values() if isinstance(s, dict) and not s.get("cached")]
    return Row(
        (
            str(run.path),
            str(p.get("command") or "–"),
            f"{str(git.get('commit', '–'))[:10]}{' + changes' if git.get('dirty') else ''}",
            ", ".join(f"{name} {version}" for name, version in mapping(p, "versions").items()),
            ", ".join(filter(None, [*parts, *map(str, gpus if isinstance(gpus, list) else [])])),
            str(p.get("finished") or "–"),
            round(sum(s for s in spent if isinstance(s, int | float))),
        )
    )


def left_out(skipped: Sequence[Skipped]) -> Table:
    """What could not be read, and why."""
    rows = tuple(Row((str(s.path), s.reason)) for s in skipped)
    return Table(name="skipped", title="Left out", columns=texts("path", "reason"), rows=rows)
