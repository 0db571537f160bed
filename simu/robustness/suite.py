"""Which attacks a run makes, and what of the evaluation they are measured by."""

from __future__ import annotations

from simu.fields import Count, component
from simu.slots import Attack
from simu.types import require


@component
class Suite:
    """Attacks by the name that their metrics carry; each on the unlearned model and on both controls."""

    attacks: dict[str, Attack]
    """Name → attack; none: nothing is done."""
    metrics: tuple[str, ...] = ()
    """Of the evaluator's metrics those that are kept (with interval and n); none named: all of forget and retain."""
    rows: Count = 100
    """Rows of each split that attacks are evaluated on, at most: the first."""

    def __post_init__(self) -> None:
        for name in self.attacks:
            require(name.isidentifier(), "attacks", name, "names of letters, digits and _")
