"""The units with the highest scores, as many as asked for: what compares localisations at equal counts. L layers."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from typing import ClassVar, Literal

import torch

from simu.fields import AtMost, Number, Share, component
from simu.masks.needed import finite, needed
from simu.types import NeuronMask, NeuronScores, Scores, UserError, require

Within = Literal["all", "layer"]


def top_units(scores: NeuronScores, count: int, within: Within) -> NeuronMask:
    """BoolTensor [L, units]: exactly `count` units of the highest scores, of all layers together or of each layer.

    Among equal scores the lower layer comes first, then the lower unit. Raises UserError for a count beyond the units
    and for scores that are not finite [L, units].
    """
    values = finite(scores)
    ranked = values.reshape(1, -1) if within == "all" else values
    if not 0 <= count <= ranked.shape[1]:
        raise UserError(f"count={count}: allowed is 0 ≤ count ≤ {ranked.shape[1]}, the units that are ranked together")
    best = ranked.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(ranked, dtype=torch.bool).scatter_(1, best, True).view_as(values)


def rounded(share: float, units: int) -> int:
    """share · units, halves up, by the share's decimal digits: 0.145 of 100 is 15, though the float is a hair less."""
    return int((Decimal(repr(share)) * units).to_integral_value(ROUND_HALF_UP))


@component
class Top:
    """The `share` or the `count` of units with the highest forget scores."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    share: Share | None = None
    """Of the units, rounded to whole ones (halves up): as many for every attribution. None: `count` says how many."""
    count: Number | None = None
    """Units; None: `share` says how many."""
    within: Within = "all"
    """The highest over all layers, or so many in each."""

    def __post_init__(self) -> None:
        if (self.share is None) == (self.count is None):
            require(False, "count", self.count, f"one of share and count, the other null (share={self.share})")

    def limits(self) -> Iterator[tuple[str, AtMost]]:
        if self.count is not None:
            yield "count", AtMost("number of neurons a layer" if self.within == "layer" else "number of neurons")

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor [L, units]; `retain` is not read."""
        values = needed(forget, "forget", shape).values
        units = shape[1] if self.within == "layer" else shape[0] * shape[1]
        count = self.count if self.share is None else rounded(self.share, units)
        assert count is not None
        return top_units(values, count, self.within)
