"""Figures 2 and 3, curves over one setting, and the curves over λ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from simu.report.columns import benchmark, headed
from simu.report.estimate import Estimate
from simu.report.figures.canvas import BEFORE, BLACK, Picture, canvas, evidence, legend, original_of, titled
from simu.report.figures.marks import dodged, fit, levels, line, series
from simu.report.groups import Group, short, show
from simu.report.nearest import by_mask, by_place, rank
from simu.report.run import ALL_WEIGHTS, finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLD, WEIGHT = "mask.t", "objective.retain_weight"


def curves(
    name: str, number: str, key: str, axis: str, groups: Sequence[Group], before: Sequence[Group]
) -> Iterator[Picture]:
    """One picture for each model and data (the longest line of configs that differ in `key` alone)."""
    for points in _longest(swept(key, groups)):
        g, xs = points[0], [_at(p, key) for p in points]
        shares = [p.share_selected() for p in points]
        panels = benchmark(g.benchmark).panels
        if not panels:
            continue
        figure, axes = canvas(len(panels) + (key == THRESHOLD and all(shares)))
        original = original_of(g, before)
        for ax, panel in zip(axes, panels, strict=False):
            for i, (metric, text, level) in enumerate(series(panel, original)):
                line(ax, i, dodged(xs, i, len(panel.keys)), [p.estimate(metric) for p in points], text, level)
            ax.set_title(panel.title)
        _controls(axes[len(panels) - 1], panels[-1].keys[0], g, groups)
        for ax, panel in zip(axes, panels, strict=False):
            fit(ax, "y")
            levels(ax, panel, original, ax.axhline)
        axes[0].set_ylabel("score, 0 to 1")
        if len(axes) > len(panels):
            line(axes[-1], 6, xs, [s and _percent(s) for s in shares], "critical neurons")
            axes[-1].set(title="MLP neurons that train", ylabel="% of all", ylim=(-3, 103))
        for ax in axes:
            ticks = xs if len(xs) <= 6 else xs[::2]
            ax.set_xticks(ticks, map(show, ticks))
            ax.set_xlabel(axis)
            legend(ax)
        caption = f"{number}: {g.kind}, over {key}.{BEFORE if original else ''}"
        yield titled(name, figure, g, f"{g.kind}, over {short(key)}", evidence(points), caption)


def swept(key: str, groups: Iterable[Group]) -> list[list[Group]]:
    """Groups that differ in `key` alone, two values at least, in the order of `key`."""
    lines: dict[str, list[Group]] = {}
    for g in groups:
        reads = g.mask not in ("none", "all", ALL_WEIGHTS) or not key.startswith(("mask.", "attribution."))
        if finite(g.settings.get(key)) is not None and reads:
            rest = sorted((k, v) for k, v in g.settings.items() if k != key)
            lines.setdefault(repr([g.model, g.place, g.method, rest]), []).append(g)
    return [sorted(points, key=lambda g: _at(g, key)) for points in lines.values() if len(points) > 1]


def _at(g: Group, key: str) -> float:
    return float(str(g.settings[key]))


def _longest(lines: list[list[Group]]) -> list[list[Group]]:
    best: dict[tuple[str, str], list[Group]] = {}
    for points in sorted(lines, key=len):
        best[points[0].place, points[0].model] = points
    return [best[key] for key in sorted(best)]


def _controls(ax: Axes, metric: str, g: Group, groups: Sequence[Group]) -> None:
    """Controls beside a curve: no MLP neuron, random neurons."""
    nearest = by_mask([o for o in groups if (o.model, o.place, o.method) == (g.model, g.place, g.method)])
    for mask, style in (("none", "--"), ("random", "-.")):
        level = nearest[mask].estimate(metric) if mask in nearest and mask != g.mask else None
        if level:
            ax.axhline(level.mean, color="#555555", linestyle=style, linewidth=1, label=f"mask {mask}", zorder=1)


def _percent(e: Estimate) -> Estimate:
    return Estimate(mean=100 * e.mean, low=e.low and max(0.0, 100 * e.low), high=e.high and min(100.0, 100 * e.high))


def weights(groups: Sequence[Group], before: Sequence[Group]) -> Iterator[Picture]:
    """Forgotten, retained and aggregate over λ, a line for each method, mask and set of options."""
    for same in by_place(groups):
        longest = {points[0].kind: points for points in sorted(swept(WEIGHT, same), key=len)}
        lines = sorted((points for points in longest.values() if len(points) > 2), key=lambda points: rank(points[0]))
        panels = benchmark(same[0].benchmark).panels
        if not lines or not panels:
            continue
        figure, axes = canvas(len(panels))
        original = original_of(same[0], before)
        ticks = sorted({_at(p, WEIGHT) for points in lines for p in points})
        for ax, panel in zip(axes, panels, strict=True):
            metric = panel.keys[0]
            for i, points in enumerate(lines):
                xs = [_at(p, WEIGHT) * 1.03 ** (i - (len(lines) - 1) / 2) for p in points]
                line(ax, i, xs, [p.estimate(metric) for p in points], points[0].kind)
            name = f"{headed(metric)}, 0 to 1"
            ax.set(title=panel.title, ylabel=name, xlabel="λ, weight of the retain side", xscale="log")
            ax.set_xticks(ticks, map(show, ticks), minor=False)
            ax.set_xticks([], minor=True)
            fit(ax, "y")
            if level := original and original.estimate(metric):
                said = f"before unlearning: {level.mean:.2f}"
                ax.axhline(level.mean, color=BLACK, linestyle=":", linewidth=1, zorder=1)
                ax.plot([], [], ":", color=BLACK, linewidth=1, label=said)
            legend(ax)
        shown = [p for points in lines for p in points]
        caption = "Figure 4, λ: what is forgotten and retained over the weight of the retain side."
        yield titled("figure4_lambda", figure, same[0], "forgetting and utility over λ", evidence(shown), caption)
