"""Relearning curves beside their controls, and how much of the forgetting each attack leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from simu.report.attacks import CONTROLS, Outcome, attacks_of, outcomes_of, survival
from simu.report.columns import label
from simu.report.figures.canvas import BLACK, MARKERS, POINTS, Picture, canvas, evidence, legend, titled, wrapped
from simu.report.figures.marks import BARS, arms
from simu.report.groups import Group
from simu.report.nearest import by_place

DASHES = {"original": ":", "retain_only": "--"}


def relearning_curves(groups: Sequence[Group]) -> Iterator[Picture]:
    """The forget metric by step of relearning; a panel an attack, a line a method, and the controls of the first."""
    for same in by_place(groups):
        found = {g: [o for o in outcomes_of(g) if o.step is not None] for g in same}
        names = list(dict.fromkeys(o.attack for some in found.values() for o in some))
        shown = [g for g in same if found[g]]
        if not names:
            continue
        figure, axes = canvas(len(names))
        for ax, name in zip(axes, names, strict=True):
            for i, g in enumerate(shown):
                points = [o for o in found[g] if o.attack == name]
                style = {
                    "color": POINTS[i % len(POINTS)],
                    "marker": MARKERS[i % len(MARKERS)],
                    "label": wrapped(g.kind),
                }
                _curve(ax, g, points, "", **style)
            for who, said in CONTROLS.items():
                points = [o for o in found[shown[0]] if o.attack == name]
                _curve(ax, shown[0], points, f"{who}/", color=BLACK, linestyle=DASHES[who], label=said)
            ax.set(title=name.replace("_", " "), xlabel="steps of relearning", ylim=(-0.02, 1.02))
        axes[0].set_ylabel(label(found[shown[0]][0].metric))
        legend(axes[0])
        g = same[0]
        caption = f"Relearning: {g.model} on {g.place}, a few steps of fine-tuning after unlearning; lower is better."
        yield titled("relearning", figure, g, "what comes back", evidence(shown), caption)


def _curve(ax: object, g: Group, points: Sequence[Outcome], prefix: str, **style: object) -> None:
    pairs = [(o.step, e) for o in points if (e := g.estimate(prefix + o.forget))]
    if pairs:
        steps, values = zip(*pairs, strict=True)
        means = [e.mean for e in values]
        ax.errorbar(steps, means, yerr=arms(list(values)), markersize=4, **BARS | {"linestyle": "-"} | style)  # type: ignore[attr-defined]


def survivals(groups: Sequence[Group]) -> Iterator[Picture]:
    """A heatmap of methods by attacks: the share of the forgetting that is left."""
    for same in by_place(groups):
        shown = [g for g in same if attacks_of(g)]
        names = list(dict.fromkeys(name for g in shown for name in attacks_of(g)))
        values = [[survival(g, name) for name in names] for g in shown]
        kept = [i for i, _ in enumerate(names) if any(row[i] is not None for row in values)]
        if not kept:
            continue
        grid = np.array([[np.nan if row[i] is None else row[i] for i in kept] for row in values], dtype=float)
        figure, (ax,) = canvas(1, width=2.4 + 0.8 * len(kept), height=1.9 + 0.4 * len(shown))
        image = ax.imshow(grid, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                ax.text(
                    column, row, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black"
                )
        ax.set(xticks=range(len(kept)), yticks=range(len(shown)))
        ax.set_xticklabels([names[i].replace("_", "\n") for i in kept])
        ax.set_yticklabels([wrapped(g.kind) for g in shown])
        ax.grid(visible=False)
        figure.colorbar(image, ax=ax, label="left, 0 to 1")
        g = same[0]
        caption = (
            f"Attacks: {g.model} on {g.place}, (original − attacked) / (original − unlearned) of the forget metric at "
            "each attack's worst setting. 1: as forgotten as before; 0: all of it is back."
        )
        yield titled("attacks", figure, g, "what of the forgetting survives", evidence(shown), caption)
