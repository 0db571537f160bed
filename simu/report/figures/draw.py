"""Figures 2–6 and the training curves, drawn from finished runs with matplotlib (extra `plots`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from simu.report.figures.attacks import relearning_curves, survivals
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


def draw(
    groups: Sequence[Group], before: Sequence[Group], failed: Callable[[str, Exception], None] | None = None
) -> list[Picture]:
    """Every figure that the runs have the points for. Raises UserError where matplotlib is not installed.

    `failed`: told of a kind of figure that could not be drawn, whatever a run holds; without it the error is raised.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("figures need matplotlib: pip install 'simu-unlearning[plots]', or --no-figures") from error
    evaluated = [g for g in groups if g.evaluated]
    with matplotlib.rc_context(STYLE):
        kinds: dict[str, Iterator[Picture]] = {
            "figure2_m": curves("figure2_m", "Figure 2", "attribution.m", STEPS, evaluated, before),
            "figure3_t": curves("figure3_t", "Figure 3", THRESHOLD, LARGEST, evaluated, before),
            "figure4_tradeoff": trade_offs(evaluated, before),
            "figure4_lambda": weights(evaluated, before),
            "figure5_masks": mask_comparisons(evaluated, before),
            "figure6_heatmaps": heatmaps(groups),
            "figure6_layers": layers(groups),
            "training": training_curves(evaluated),
            "relearning": relearning_curves(evaluated),
            "attacks": survivals(evaluated),
        }
        made = [picture for kind, pictures in kinds.items() for picture in _drawn(kind, pictures, failed)]
    names = distinct([picture.name for picture in made])
    return [replace(picture, name=name) for picture, name in zip(made, names, strict=True)]


def _drawn(
    kind: str, pictures: Iterator[Picture], failed: Callable[[str, Exception], None] | None
) -> Iterator[Picture]:
    try:
        yield from pictures
    except Exception as error:  # no run's content may cost the rest of the report
        if failed is None:
            raise
        failed(kind, error)
