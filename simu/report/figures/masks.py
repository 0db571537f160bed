"""Figure 5: the kinds of mask side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simu.report.columns import benchmark
from simu.report.figures.canvas import (
    BEFORE,
    COLOURS,
    MARKERS,
    Picture,
    canvas,
    evidence,
    legend,
    original_of,
    titled,
    wrapped,
)
from simu.report.figures.marks import BARS, arms, fit, levels, said, series
from simu.report.groups import Group
from simu.report.nearest import SELECTIVE, by_mask, by_place


def mask_comparisons(groups: Sequence[Group], before: Sequence[Group]) -> Iterator[Picture]:
    """Everything but the mask as in the method's preset, a picture for each method that ran with several masks."""
    for same in by_place(groups):
        for method in dict.fromkeys(g.method for g in same):
            kinds = by_mask([g for g in same if g.method == method])
            if len(kinds) > 1 and benchmark(same[0].benchmark).panels:
                yield _comparison(list(kinds.values()), original_of(same[0], before))


def _comparison(shown: Sequence[Group], original: Group | None) -> Picture:
    g = shown[0]
    panels = benchmark(g.benchmark).panels
    figure, axes = canvas(len(panels), height=0.42 * len(shown) + 1.6)
    for ax, panel in zip(axes, panels, strict=True):
        for i, (metric, text, level) in enumerate(series(panel, original)):
            offset = 0.18 * (i - (len(panel.keys) - 1) / 2)
            points = [(row + offset, e) for row, p in enumerate(shown) if (e := p.estimate(metric))]
            ax.errorbar(
                [e.mean for _, e in points],
                [at for at, _ in points],
                xerr=arms([e for _, e in points]),
                fmt=MARKERS[i % len(MARKERS)],
                color=COLOURS[i % len(COLOURS)],
                markersize=5,
                label=said(text, level),
                **BARS,
            )
        fit(ax, "x")
        levels(ax, panel, original, ax.axvline)
        ax.set(title=panel.title, yticks=range(len(shown)), ylim=(len(shown) - 0.5, -0.5), xlabel="score, 0 to 1")
        ax.set_yticklabels([_mask_label(p) for p in shown] if ax is axes[0] else [])
        ax.grid(visible=False, axis="y")
        legend(ax)
    caption = (
        f"Figure 5: kinds of mask under {g.method}, {g.model} on {g.place}; in brackets the share of MLP neurons that "
        f"train.{BEFORE if original else ''}"
    )
    suffix = "" if g.method == SELECTIVE else f"_{g.method}"
    return titled("figure5_masks", figure, g, f"{g.method} by mask", evidence(shown), caption, suffix)


def _mask_label(g: Group) -> str:
    """'forget only (12.5 %)', with the options that its method does not pick by itself."""
    name = wrapped(g.kind.removeprefix(f"{g.method} · ").replace("_", " "))
    share = g.share_selected()
    return f"{name} ({100 * share.mean:.1f} %)" if share else name
