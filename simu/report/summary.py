"""The table at the end of a run: the original model beside the unlearnt one, with n and intervals."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simu.metrics.metric import PREFIXES, SPLIT_ROLES, SUFFIXES, find
from simu.report.columns import benchmark, label, unlisted
from simu.report.direction import arrow, better

WIDTH = 80
BEFORE = PREFIXES[0]


def print_summary(metrics: Mapping[str, float], method: str, name: str) -> None:
    """One row a metric of benchmark `name`: direction, original, method, n; 80 columns wide at most.

    Values are [low, high] 95 % bootstrap intervals where known. Which metrics, their labels and directions are the
    metric table's and the benchmark's.
    """
    table = Table(
        title=Text(f"{BEFORE} → {method}"),
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        caption=Text(documents(metrics)) if documents(metrics) else None,
        caption_justify="left",
    )
    table.add_column("metric", overflow="fold")
    table.add_column("", justify="center", no_wrap=True)
    for head in (BEFORE, method, "n"):
        table.add_column(Text(head), justify="right", no_wrap=True, overflow="ellipsis")
    for key in rows(metrics, name):
        values = (cell(metrics, f"{BEFORE}/{key}"), cell(metrics, key), count(metrics, key))
        table.add_row(Text(label(key)), arrow(better(key)), *values)
    Console(width=WIDTH).print(table)


def rows(metrics: Mapping[str, float], name: str) -> list[str]:
    """The benchmark's headline, then headline metrics that it does not list; all that a run of no known benchmark
    has."""
    listed = benchmark(name).headline
    own = [key for key in metrics if key.split("/")[0] not in PREFIXES and key.rsplit("/", 1)[-1] not in SUFFIXES]
    return [key for key in (*listed, *unlisted(listed, own)) if key in metrics]


def cell(metrics: Mapping[str, float], key: str) -> str:
    if key not in metrics:
        return "–"
    low, high = metrics.get(f"{key}/ci_low"), metrics.get(f"{key}/ci_high")
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{metrics[key]:.3f}{interval}"


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
