"""The table at the end of a run: the original model beside the unlearnt one, with n and intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

ROWS = (
    ("aggregate", "aggregate", "↑"),
    ("forget/exact_match", "forget  exact match", "↓"),
    ("forget/rouge_l_recall", "forget  ROUGE-L recall", "↓"),
    ("retain/exact_match", "retain  exact match", "↑"),
    ("retain/rouge_l_recall", "retain  ROUGE-L recall", "↑"),
    ("world_facts/contains_answer", "world facts  contains answer", "↑"),
    ("real_authors/contains_answer", "real authors  contains answer", "↑"),
    ("forget/regurgitation", "forget  regurgitation", "↓"),
    ("forget/knowledge", "forget  knowledge", "↓"),
    ("retain/regurgitation", "retain  regurgitation", "↑"),
    ("retain/knowledge", "retain  knowledge", "↑"),
    ("mia/min_k", "membership AUC, Min-K", "↓"),
    ("mia/loss", "membership AUC, loss", "↓"),
)


def print_summary(metrics: Mapping[str, float], method: str) -> None:
    """One row a metric: direction, original, method, n. Values are [low, high] 95 % bootstrap intervals where known."""
    table = Table(title=f"original → {method}", title_justify="left", header_style="bold")
    table.add_column("metric")
    table.add_column("", justify="center")
    for name in ("original", method, "n"):
        table.add_column(name, justify="right")
    for key, label, direction in ROWS:
        if key in metrics:
            label += documents(metrics) if key.startswith("mia/") else ""
            table.add_row(label, direction, cell(metrics, f"original/{key}"), cell(metrics, key), count(metrics, key))
    Console(width=100).print(table)


def cell(metrics: Mapping[str, float], key: str) -> str:
    if key not in metrics:
        return "–"
    low, high = metrics.get(f"{key}/ci_low"), metrics.get(f"{key}/ci_high")
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{metrics[key]:.3f}{interval}"


def documents(metrics: Mapping[str, float]) -> str:
    """', fold documents': LUME's membership set by name; nothing where there is one set only (TOFU)."""
    found = [m[1] for m in (re.fullmatch(r"mia/(\w+)/n_members", key) for key in metrics) if m]
    return f", {found[0]} documents" if found else ""


def count(metrics: Mapping[str, float], key: str) -> str:
    """Rows behind a figure: of its split, or members + non-members."""
    split = key.partition("/")[0]
    if split == "mia":
        sizes = [metrics.get(f"mia/{name}") for name in ("n_members", "n_nonmembers")]
        return " + ".join(f"{int(n)}" for n in sizes if n is not None)
    n = metrics.get(f"{split}/n")
    return "" if n is None else f"{int(n)}"
