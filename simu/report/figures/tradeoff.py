"""Figure 4: what forgetting costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from simu.metrics.collapse import MAIN_SPLITS
from simu.report.columns import benchmark, column, label
from simu.report.direction import better, words
from simu.report.estimate import Estimate
from simu.report.figures.canvas import (
    BLACK,
    MARKERS,
    POINTS,
    Picture,
    canvas,
    evidence,
    legend_beside,
    original_of,
    titled,
    wrapped,
)
from simu.report.figures.marks import BARS, arms, fit
from simu.report.groups import Group
from simu.report.nearest import by_place, nearest_to_preset, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAPTION = (
    "Figure 4: retained against forgotten; the best corner is at the top left. The model before unlearning may be off "
    "the scale."
)


def trade_offs(groups: Sequence[Group], before: Sequence[Group]) -> Iterator[Picture]:
    """Retained against forgotten, one point a config; of each method, mask and set of options the config nearest to
    its preset is the large one."""
    for same in by_place(groups):
        panels = benchmark(same[0].benchmark).panels[:2]
        if len(same) < 2 or len(panels) < 2:
            continue
        x, y = (panel.keys[0] for panel in panels)
        if not any(p.estimate(x) and p.estimate(y) for p in same):
            continue
        kinds = list(dict.fromkeys(p.kind for p in sorted(same, key=rank)))
        figure, (ax,) = canvas(1, width=7.6, height=max(4.2, 0.45 * len(kinds) + 1.6))
        main = {kind: nearest_to_preset([q for q in same if q.kind == kind])[0] for kind in kinds}
        large = {id(p) for p in main.values()}
        for p in sorted(same, key=lambda p: id(p) in large):
            _point(ax, kinds.index(p.kind), p.estimate(x), p.estimate(y), id(p) in large, hollow=bool(p.collapse))
        fit(ax, "x")
        fit(ax, "y")
        handles = [
            _handle(_legend(p), POINTS[i % len(POINTS)], MARKERS[i % len(MARKERS)], hollow=bool(p.collapse))
            for i, p in enumerate(main.values())
        ]
        handles += _original(ax, original_of(same[0], before), x, y)
        ax.set(xlabel=_axis(x), ylabel=_axis(y))
        legend_beside(ax, handles)
        fallen = [p for p in same if p.collapse]
        hollow = f" Hollow: collapsed ({len(fallen)} of {len(same)} configs; signs in the table of every run)."
        said = f" In the legend, of the large ones: {', '.join(map(label, _told(same)))}." if _told(same) else ""
        note = f"Large: nearest to the preset; small: other settings.{hollow * bool(fallen)}{said} {evidence(same)}"
        yield titled("figure4_tradeoff", figure, same[0], "retained against forgotten", note, CAPTION)


def _axis(key: str) -> str:
    return ": ".join(filter(None, (label(key), words(better(key)))))


def _told(groups: Sequence[Group]) -> list[str]:
    """What tells a collapse on rows to forget."""
    return list(dict.fromkeys(key for g in groups for key in g.signs() if key.split("/")[0] == MAIN_SPLITS[0]))


def _legend(g: Group) -> str:
    """The kind, and below it the signs of a collapse with their figures, and whether the run warned of something."""
    found = {key: e for key in _told([g]) if (e := g.estimate(key))}
    signs = [f"{column(key).label} {e.mean:.2f}" for key, e in found.items()]
    return "\n".join(filter(None, (wrapped(g.kind), ", ".join(filter(None, (g.state(), *signs))))))


def _handle(text: str, colour: str, marker: str, hollow: bool = False) -> Any:
    from matplotlib.lines import Line2D

    look: Any = {"markerfacecolor": "none"} if hollow else {}
    return Line2D([], [], linestyle="", color=colour, marker=marker, markersize=7, label=text, **look)


def _original(ax: Axes, original: Group | None, x: str, y: str) -> list[Any]:
    """The model before unlearning: its point, and its line of the legend."""
    a, b = (original.estimate(key) if original else None for key in (x, y))
    if a is None or b is None:
        return []
    ax.plot(a.mean, b.mean, "X", color=BLACK, markersize=8, scalex=False, scaley=False)
    return [_handle(f"before unlearning ({a.mean:.2f}, {b.mean:.2f})", BLACK, "X")]


def _point(ax: Axes, i: int, x: Estimate | None, y: Estimate | None, main: bool, hollow: bool) -> None:
    if x is None or y is None:
        return
    colour, marker = POINTS[i % len(POINTS)], MARKERS[i % len(MARKERS)]
    look: Any = {"markerfacecolor": "white", "markeredgecolor": colour} if hollow else {}
    if not main:
        ax.plot(
            x.mean, y.mean, marker, **{"color": colour, "markersize": 4, "alpha": 0.6, "markeredgewidth": hollow} | look
        )
        return
    ax.errorbar(
        x.mean,
        y.mean,
        xerr=arms([x]),
        yerr=arms([y]),
        fmt=marker,
        color=colour,
        markersize=8,
        zorder=3,
        **{"markeredgecolor": "white", **look},
        **BARS,
    )
