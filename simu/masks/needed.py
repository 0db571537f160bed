"""What every mask asks of the scores that it is given."""

from __future__ import annotations

from typing import Literal

import torch

from simu.types import NeuronScores, Scores, UserError


def needed(scores: Scores | None, rows: Literal["forget", "retain"], shape: tuple[int, int]) -> Scores:
    """The scores of those rows. Raises UserError where there are none, or where they are of another model's shape."""
    if scores is None:
        raise UserError(f"mask: needs the {rows} scores; allowed is an attribution of the {rows} rows")
    if tuple(scores.values.shape) != tuple(shape):
        raise UserError(f"mask: {rows} scores of shape {tuple(scores.values.shape)}; allowed is {tuple(shape)}")
    return scores


def finite(scores: NeuronScores) -> NeuronScores:
    """The scores. Raises UserError where they are not finite [layers, units]."""
    if scores.ndim != 2:
        raise UserError(f"scores: shape {tuple(scores.shape)}; allowed is [layers, units]")
    if not torch.isfinite(scores).all():
        raise UserError("scores: some are not finite; allowed are finite numbers (was the attribution complete?)")
    return scores
