"""What a training step lowers. One objective a file; an objective is anything with the shape of `Objective`.

L = forget + retain_weight · retain,   each side Σ total / Σ count over the micro-batches of a step
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from simu.models.reference import Reference
from simu.types import Batch, Loss

Unit = Literal["token", "row"]
Answers = Literal["original", "alternative", "both"]


class Objective(Protocol):
    """The slot's contract. Signs are included: both sides are minimised as they stand."""

    needs_reference: ClassVar[frozenset[str]]
    """The sides, of {"forget", "retain"}, that are compared with the untouched model (see `reference.py`)."""
    unit: ClassVar[Unit]
    """What `Loss.count` of the forget side counts: labelled tokens or rows."""
    retain_unit: ClassVar[Unit]
    answers: ClassVar[Answers]
    """Whether a forget batch holds the answers to forget, "I don't know" in their place, or first all of the former
    and then, in the same order, all of the latter ("both": 2·B rows that count as B)."""

    @property
    def retain_weight(self) -> float:
        """λ, the weight of the retain side."""
        ...

    def forget(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss: ...

    def retain(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss | None:
        """None: the objective has no retain side."""
        ...


class Comparing(Objective, Protocol):
    """An objective whose `needs_reference` names a side has this too."""

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """What the untouched model says of each row of a batch of that side, one tensor a row; `Reference.values` is
        these joined along their first dimension."""
        ...
