"""Figures 2–6 and the training curves, drawn from finished runs with matplotlib (extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simu.report.figures.canvas import STYLE, Picture
from simu.report.figures.curves import THRESHOLD, curves, weights
from simu.report.figures.heatmaps import heatmaps, layers
from simu.report.figures.masks import mask_comparisons
from simu.report.figures.tradeoff import trade_offs
from simu.report.figures.training import training_curves
from simu.report.groups import Group
from simu.report.table import distinct
from simu.types import UserError

STEPS = "m, steps of the path integral"
LARGEST = "t, share of the layer's largest score"


def draw(groups: Sequence[Group], before: Sequence[Group]) -> list[Picture]:
    """Every figure that the runs have the points for. Raises UserError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("figures need matplotlib: pip install 'simu-unlearning[plots]', or --no-figures") from error
    evaluated = [g for g in groups if g.evaluated]
    with matplotlib.rc_context(STYLE):
        made = [
            *curves("figure2_m", "Figure 2", "attribution.m", STEPS, evaluated, before),
            *curves("figure3_t", "Figure 3", THRESHOLD, LARGEST, evaluated, before),
            *trade_offs(evaluated, before),
            *weights(evaluated, before),
            *mask_comparisons(evaluated, before),
            *heatmaps(groups),
            *layers(groups),
            *training_curves(evaluated),
        ]
    names = distinct([picture.name for picture in made])
    return [replace(picture, name=name) for picture, name in zip(made, names, strict=True)]
