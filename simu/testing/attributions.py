"""What an attribution must be: a function of the scored tokens, whatever the batches they came in. L layers, D
neurons."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simu.models.anatomy import anatomy
from simu.slots import Attribution, WithCompleteness
from simu.testing.bench import close, left_alone, small_model, small_rows, take, with_more_padding
from simu.testing.contract import Check, of, run_checks, with_other_knobs
from simu.types import IGNORE, Batch, NeuronScores, UserError

TOLERANCE = 1e-5
"""Relative to the largest score: scores are float32."""
ROWS = 6


@dataclass(frozen=True)
class Given:
    attribution: Attribution
    model: Any = field(default_factory=small_model)

    @property
    def batch(self) -> Batch:
        return small_rows(count=ROWS)

    @property
    def other(self) -> Batch:
        """Rows of the other side."""
        return small_rows(seed=2, count=ROWS)

    def __call__(self, *batches: Batch, **options: Any) -> NeuronScores:
        """Of `batch` unless batches are given, against `other` where it compares and nothing else is said."""
        against = options.pop("against", [self.other] if self.attribution.reads_other else None)
        if against is not None:
            options["against"] = [whole(batch) for batch in against]
        return self.attribution(self.model, [whole(batch) for batch in batches or (self.batch,)], **options)

    def refuses(self, **options: Any) -> bool:
        """Whether it raises UserError."""
        try:
            self(**options)
        except UserError:
            return True
        return False

    def of_rows(self, *parts: Sequence[int]) -> NeuronScores:
        return self(*(take(self.batch, part) for part in parts))


def whole(batch: Batch) -> dict[str, Tensor]:
    """A batch as the stage makes them: with the template's tokens marked (the first of each row)."""
    made: dict[str, Tensor] = {**batch}  # type: ignore[dict-item]
    made["template"] = torch.zeros_like(batch["labels"])
    made["template"][:, 0] = 1
    return made


def check_attribution(attribution: Attribution, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold an attribution to its slot's contract (`simu.slots.Attribution`) on a small random model. Raises
    AssertionError, naming attribution, check and mistake."""
    run_checks(attribution, Given(attribution), CHECKS, expected_failed_checks)


def has_shape_and_type(given: Given) -> None:
    """float32 [L, units] on the CPU."""
    made, parts = given(), anatomy(given.model)
    expected = parts.shape(given.attribution.unit)
    assert isinstance(made, Tensor), f"returned a {type(made).__name__}; a Tensor {expected} is needed"
    assert made.shape == expected, f"returned shape {tuple(made.shape)}; [layers, neurons] = {expected} is needed"
    assert made.dtype == torch.float32, f"returned {made.dtype}; float32 is needed"
    assert made.device.type == "cpu", f"returned scores on {made.device}; move them to the CPU"
    assert not made.requires_grad, "returned scores that hold on to the graph; detach them"


def is_finite_and_not_zero(given: Given) -> None:
    """Each layer has a score."""
    made = given()
    assert bool(torch.isfinite(made).all()), "returned scores that are not finite"
    silent = (made.abs().amax(dim=1) == 0).nonzero().flatten().tolist()
    assert not silent, f"returned zeros alone for layer(s) {silent}; did the gradient reach them?"


def reads_its_batches(given: Given) -> None:
    """Other rows, and fewer labels of the same rows, give other scores."""
    made = given()
    assert not close(given(small_rows(seed=1, count=ROWS)), made), "gave the same scores for other rows"
    fewer = given.batch
    for row in fewer["labels"]:
        row[(row != IGNORE).nonzero()[0]] = IGNORE
    assert not close(given(fewer), made), "gave the same scores for fewer labels; only labelled tokens are samples"


def says_what_it_is(given: Given) -> None:
    """`reads_other` is true or false."""
    said = getattr(given.attribution, "reads_other", None)
    assert isinstance(said, bool), f"reads_other is {said!r}; write reads_other: ClassVar[bool] = True or False"


def ignores_how_rows_are_batched(given: Given) -> None:
    """Rows in one batch or in several have the same scores, on the other side too."""
    made = given()
    for parts in (([0, 1, 2], [3, 4, 5]), ([0], [1, 2, 3, 4, 5]), tuple([i] for i in range(ROWS))):
        assert close(given.of_rows(*parts), made, TOLERANCE), (
            f"rows in batches {parts} give other scores than in one; add sums over tokens, never means over a batch"
        )
    if given.attribution.reads_other:
        cut = given(against=[take(given.other, part) for part in ([0], [1, 2, 3, 4, 5])])
        assert close(cut, made, TOLERANCE), "another cut of the other side's rows into batches gives other scores"


def adds_up_over_rows(given: Given) -> None:
    """Where the attribution knows what its scores add up to, the scores of two halves add up to the whole's."""
    if isinstance(given.attribution, WithCompleteness):
        assert close(given.of_rows([0, 1, 2]) + given.of_rows([3, 4, 5]), given(), TOLERANCE), (
            "scores of two halves do not add up to the whole's; do not normalise by what was given"
        )


def ignores_the_order_of_batches(given: Given) -> None:
    """Neither that of batches nor that of rows in a batch matters."""
    made = given.of_rows([0, 1], [2, 3], [4, 5])
    assert close(given.of_rows([4, 5], [0, 1], [2, 3]), made, TOLERANCE), (
        "another order of batches gives other scores; does something of a batch outlive it?"
    )
    assert close(given.of_rows([5, 2, 0, 4, 1, 3]), given(), TOLERANCE), "another order of rows gives other scores"


def ignores_padding(given: Given) -> None:
    """Columns that nothing attends to and nothing scores change nothing."""
    assert close(given(with_more_padding(given.batch)), given(), TOLERANCE), "padding changes the scores"


def compares_where_it_says(given: Given) -> None:
    """`reads_other`: other rows on the other side give other scores, none are a UserError. Else they change nothing."""
    same, other = given(against=[given.batch]), given(against=[given.other])
    if not given.attribution.reads_other:
        assert close(same, other, TOLERANCE), "reads rows of the other side; it must say reads_other = True"
        return
    assert not close(same, other), "gave the same scores whatever it compares with; does it need reads_other?"
    assert given.refuses(against=None), "took no rows to compare with; raise UserError where `against` is None"


def gives_the_same_scores_twice(given: Given) -> None:
    """A function of model, batches and fields, with a checkpoint folder or without."""
    first = given()
    torch.rand(1)
    assert first.equal(given()), "the same batches gave other scores; draw from a Generator made of a field `seed`"
    with tempfile.TemporaryDirectory() as folder:
        for time in ("first", "second"):
            assert first.equal(given(checkpoint=Path(folder) / "kept")), f"other scores with a checkpoint, {time} call"


def leaves_the_model_alone(given: Given) -> None:
    """Weights, gradients, mode, hooks and random generators are as they were."""
    fresh = Given(given.attribution)
    with left_alone(fresh.model):
        fresh()


def has_knobs_that_change_nothing(given: Given) -> None:
    """A field that carries KNOB cannot change a score."""
    made = given()
    for change, other in with_other_knobs(given.attribution):
        assert close(Given(other, given.model)(), made, TOLERANCE), f"{change} changes the scores, yet carries KNOB"


CHECKS: tuple[Check, ...] = (
    *of("attribution"),
    says_what_it_is,
    has_shape_and_type,
    is_finite_and_not_zero,
    reads_its_batches,
    ignores_how_rows_are_batched,
    adds_up_over_rows,
    ignores_the_order_of_batches,
    ignores_padding,
    compares_where_it_says,
    gives_the_same_scores_twice,
    leaves_the_model_alone,
    has_knobs_that_change_nothing,
)
