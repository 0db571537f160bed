"""The table at the end of a run: the original model beside the unlearnt one, with n and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simu.console import inert
from simu.metrics.collapse import MAIN_SPLITS, signs
from simu.metrics.metric import PREFIXES, SPLIT_ROLES, SUFFIXES, find
from simu.report.columns import benchmark, label, unlisted
from simu.report.direction import arrow, better
from simu.report.estimate import over_rows

WIDTH, NAME = 80, 20
"""Columns of a terminal, and letters of a name that head a column of '0.947 [0.930, 0.964]'."""
BEFORE = PREFIXES[0]


def print_summary(metrics: Mapping[str, float], method: str, name: str, warnings: Sequence[str] = ()) -> None:
    """One row a metric of benchmark `name`: direction, original, method, n; 80 columns wide at most.

    Values are [low, high] 95 % intervals over rows where known. Which metrics, their labels and directions are the
    metric table's and the benchmark's; what tells a collapse stands below them, and below all what the run warned of.
    """
    name_of = Text(inert(method))
    name_of.truncate(NAME, overflow="ellipsis")
    method = name_of.plain
    table = Table(
        title=Text(f"{BEFORE} → {method}"),
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption=Text("\n".join(filter(None, (documents(metrics), intervals(metrics))))),
        caption_justify="left",
    )
    table.add_column("metric", overflow="fold")
    table.add_column("", justify="center", no_wrap=True)
    for head in (BEFORE, method, "n"):
        table.add_column(Text(head, "bold"), justify="right", no_wrap=True, overflow="ellipsis")
    for key in rows(metrics, name):
        values = (cell(metrics, f"{BEFORE}/{key}"), cell(metrics, key), count(metrics, key))
        table.add_row(Text(inert(label(key))), arrow(better(key)), *values)
    console = Console(width=WIDTH)
    console.print(table)
    for line in warnings:
        console.print(Text(f"warning: {inert(line)}"))


def rows(metrics: Mapping[str, float], name: str) -> list[str]:
    """The benchmark's headline, headline metrics that it does not list, and of the first splits to forget and to keep
    what tells a collapse; all that a run of no known benchmark has. Of documents, which have no question and so no
    generated text, the benchmark's further metrics."""
    bench = benchmark(name)
    listed = bench.headline
    if not any(key.split("/")[0] in MAIN_SPLITS for key in listed if key in metrics):
        listed = (*listed, *bench.more)
    own = [key for key in metrics if key.split("/")[0] not in PREFIXES and key.rsplit("/", 1)[-1] not in SUFFIXES]
    told = [key for key in signs(metrics) if key.split("/")[0] in MAIN_SPLITS]
    return [key for key in dict.fromkeys((*listed, *unlisted(listed, own), *told)) if key in metrics]


def cell(metrics: Mapping[str, float], key: str) -> str:
    if key not in metrics:
        return "–"
    ends = over_rows(metrics, key)
    return f"{metrics[key]:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def intervals(metrics: Mapping[str, float]) -> str:
    """What the intervals are, where there are any."""
    some = any(key.endswith("/ci_low") for key in metrics)
    return "95 % intervals over rows: bootstrap; Wilson where all rows score 0 or all 1" if some else ""


def documents(metrics: Mapping[str, float]) -> str:
    """'membership: fold documents' where the metrics say by name which set they are of; else ''."""
    named = [key.split("/") for key in metrics]
    found = [p[1] for p in named if len(p) == 3 and p[2] == "n_members" and SPLIT_ROLES.get(p[0]) == "membership"]
    return f"membership: {found[0]} documents" if found else ""


def count(metrics: Mapping[str, float], key: str) -> str:
    """Rows behind a figure: of its split, or members + non-members."""
    found, split = find(key), key.partition("/")[0]
    if found and found.role == "membership":
        sizes = [metrics.get(f"{split}/{name}") for name in ("n_members", "n_nonmembers")]
        return " + ".join(f"{int(n)}" for n in sizes if n is not None)
    n = metrics.get(f"{split}/n")
    return "" if n is None else f"{int(n)}"
