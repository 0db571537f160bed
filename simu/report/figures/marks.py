"""Points with bars, lines, levels and scales: what is drawn of an Estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simu.metrics.benchmarks import Panel
from simu.report.columns import headed
from simu.report.estimate import Estimate
from simu.report.figures.canvas import COLOURS, MARKERS
from simu.report.groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPAN = 0.1  # least width of a scale, so that noise does not look like an effect
BARS: Any = {"elinewidth": 1, "capsize": 2}


def line(
    ax: Axes, i: int, xs: Sequence[float], values: Sequence[Estimate | None], text: str, before: Estimate | None = None
) -> None:
    """Series number i: a curve with bars, its level before unlearning in the legend."""
    points = [(x, e) for x, e in zip(xs, values, strict=True) if e is not None]
    if points:
        ax.errorbar(
            [x for x, _ in points],
            [e.mean for _, e in points],
            yerr=arms([e for _, e in points]),
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            linewidth=1.5,
            label=said(text, before),
            clip_on=False,
            **BARS,
        )


def said(text: str, before: Estimate | None) -> str:
    return f"{text} (before: {before.mean:.2f})" if before else text


def dodged(xs: Sequence[float], i: int, n: int) -> list[float]:
    """Series beside one another, so that points of the same height stay visible."""
    gap = min(b - a for a, b in pairwise(xs))
    return [x + 0.1 * gap * (i - (n - 1) / 2) for x in xs]


def arms(estimates: Sequence[Estimate]) -> Any:
    """Lengths of error bars [2, n], 0 where there is no interval; cut at 0 and 1 where the figure lies between them."""
    pairs = []
    for e in estimates:
        low, high = (e.mean if end is None else end for end in (e.low, e.high))
        if 0 <= e.mean <= 1:
            low, high = max(low, 0.0), min(high, 1.0)
        pairs.append((e.mean - low, high - e.mean))
    return np.clip(np.array(pairs).T, 0, None)


def fit(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Fix a scale to what is drawn so far, SPAN wide at least, and not wider below 0 or above 1 for that."""
    low, high = ax.get_xlim() if axis == "x" else ax.get_ylim()
    more = max(0.0, SPAN - (high - low))
    under = min(more / 2, max(0.0, low + 0.01))
    over = min(more - under, max(0.0, 1.01 - high))
    (ax.set_xlim if axis == "x" else ax.set_ylim)(low - (more - over), high + over)


def levels(ax: Axes, panel: Panel, before: Group | None, draw: Callable[..., Any]) -> None:
    """A dotted line before unlearning for each series of a panel; the scale stays, so a line may be off it."""
    for i, key in enumerate(panel.keys):
        if found := before and before.estimate(key):
            draw(found.mean, color=COLOURS[i], linestyle=":", linewidth=1, zorder=1)


def series(panel: Panel, before: Group | None) -> list[tuple[str, str, Estimate | None]]:
    """(key, label with its arrow, estimate before unlearning) of what a panel draws."""
    return [(key, headed(key), before.estimate(key) if before else None) for key in panel.keys]
