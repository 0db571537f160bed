"""What a report shows first of each benchmark. A run names its benchmark; nothing is guessed from keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One axes of a figure: its title and the metrics that it draws."""

    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Which of its metrics a reader sees, in which order."""

    name: str
    title: str
    """As tables are headed: 'question answering (TOFU)'."""
    headline: tuple[str, ...]
    """Keys of the summary at the end of a run."""
    columns: tuple[str, ...]
    """Keys of the main table (the paper's Table 1 or 2), in its order."""
    main: frozenset[str]
    """Of `columns`: those kept where a terminal has no room for all."""
    printed: Mapping[str, str]
    """Key → column of the paper's printed table."""
    more: tuple[str, ...]
    """Keys of the table beyond the paper."""
    panels: tuple[Panel, ...]
    """Forgetting, utility, aggregate."""
    forgotten: tuple[str, float]
    """What counts as forgotten unless told otherwise: (key, largest value)."""
    number: int = 0
    """Of the paper's table; 0: none."""
    by_group: tuple[str, ...] = field(default=())
    """Keys of a further table, by task."""


BENCHMARKS: Mapping[str, Benchmark] = {}
