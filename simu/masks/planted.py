"""The units that a planted target was taught its forget rows in: the oracle, an upper bound for every localisation."""

from __future__ import annotations

from typing import ClassVar

from simu.fields import component
from simu.masks.needed import finite, needed
from simu.types import NeuronMask, Scores


@component
class Planted:
    """What holds the forget rows, known because it was planted (`model.target.plant`)."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    reads_planted: ClassVar[bool] = True

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask:
        """BoolTensor [L, units] of the units whose "score" is above 0; `forget` is 1 for planted units, else 0."""
        return finite(needed(forget, "forget", shape).values) > 0
