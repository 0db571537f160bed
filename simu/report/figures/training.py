"""Losses by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simu.report.figures.canvas import COLOURS, Picture, canvas, legend, titled
from simu.report.groups import Group
from simu.report.nearest import by_place, nearest_to_preset, rank
from simu.report.run import finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WANTED = (
    ("forget_loss", "Forget loss, as the objective signs it"),
    ("retain_loss", "Retain loss"),
    ("clipped_fraction", "Clipped fraction"),
)
DASHES = ("-", "--", "-.", ":")


def training_curves(groups: Sequence[Group]) -> Iterator[Picture]:
    """Forget and retain loss and the clipped fraction by step, each method nearest to its preset."""
    for same in by_place(groups):
        shown = [(g, log) for g in sorted(nearest_to_preset(same), key=rank) if (log := g.first.training())]
        if not shown:
            continue
        figure, axes = canvas(len(WANTED))
        window = max(1, max(len(log) for _, log in shown) // 20)
        for ax, (key, title) in zip(axes, WANTED, strict=True):
            for i, (g, log) in enumerate(shown):
                _curve(ax, i, log, key, window, g.kind)
            ax.set(title=title, xlabel="step")
        axes[0].set_ylabel("loss")
        axes[-1].set_ylabel("share of coordinates, 0 to 1")
        legend(axes[0])
        g = same[0]
        caption = (
            f"Training: {g.model} on {g.place}, each method's config nearest to its preset. Clipped: share of "
            "coordinates whose second-order step is cut to ±1 (first-order methods have none). Thin: every step; "
            f"thick: mean of {window} steps."
        )
        note = "One run each (its first seed), so no interval."
        yield titled("training", figure, g, "losses by step", note, caption)


def _curve(ax: Axes, i: int, log: Sequence[dict[str, Any]], key: str, window: int, label: str) -> None:
    """Thin: every step; thick: smoothed."""
    pairs = [(finite(row["step"]), finite(row.get(key))) for row in log]
    points = [pair for pair in pairs if None not in pair]
    if points:
        colour = COLOURS[i % len(COLOURS)]
        steps, values = np.array(points, dtype=float).T
        ax.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
        dashes = DASHES[i % len(DASHES)]
        ax.plot(steps, smooth(values, window), color=colour, linestyle=dashes, linewidth=1.6, label=label)


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over up to `window` steps around each."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
