"""Which way a metric is better, as an arrow, in words, and as a number to sort by."""

from __future__ import annotations

from simu.metrics.metric import Better, Near, find

ARROWS = {"lower": "↓", "higher": "↑"}


def better(key: str) -> Better | None:
    """None where the table gives no direction for the metric and its split, or does not know the key."""
    found = find(key)
    return found.better if found else None


def arrow(way: Better | None) -> str:
    """'↓', '↑', '→0.5', or '' for none."""
    return f"→{way.value:g}" if isinstance(way, Near) else ARROWS.get(way or "", "")


def words(way: Better | None) -> str:
    """'lower is better'"""
    return f"nearer to {way.value:g} is better" if isinstance(way, Near) else f"{way} is better" if way else ""


def superlative(way: Better | None) -> str:
    """'Highest'; a metric without a direction is taken as one of which more is better."""
    return f"Nearest to {way.value:g}" if isinstance(way, Near) else "Lowest" if way == "lower" else "Highest"


def merit(way: Better | None, value: float) -> float:
    """Larger is better, whichever way the metric goes."""
    return -abs(value - way.value) if isinstance(way, Near) else -value if way == "lower" else value
