"""What a mask must be: a pure function of the scores that it names. L layers, D units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from simu.slots import Mask
from simu.testing.contract import Check, of, run_checks
from simu.types import NeuronMask, Scores, UserError

Rows = Literal["forget", "retain"]
SIDES: tuple[Rows, ...] = ("forget", "retain")
SHAPES = ((2, 16), (3, 5))
SEEDS = range(5)


@dataclass(frozen=True)
class Given:
    mask: Mask

    def __call__(self, sides: Mapping[Rows, Scores], shape: tuple[int, int]) -> NeuronMask:
        """The mask of the sides that it names."""
        named = {side: sides[side] if side in self.mask.needs else None for side in SIDES}
        return self.mask(named["forget"], named["retain"], shape)


def some_scores(shape: tuple[int, int], seed: int = 0) -> dict[Rows, Scores]:
    """Of both signs, with a largest one above 0 in each layer, summed over different numbers of samples."""
    generator = torch.Generator().manual_seed(seed)
    return {side: Scores(torch.randn(shape, generator=generator) + 0.5, 30 + 7 * i) for i, side in enumerate(SIDES)}


def check_mask(mask: Mask, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold a mask to its slot's contract (`simu.slots.Mask`). Raises AssertionError, naming mask, check and mistake.

    A control that is constant on purpose says so: expected_failed_checks={"reads_what_it_names": "a control"}.
    """
    run_checks(mask, Given(mask), CHECKS, expected_failed_checks)


def names_what_it_needs(given: Given) -> None:
    """`needs` is a set of "forget" and "retain"."""
    needs = given.mask.needs
    assert isinstance(needs, frozenset), "needs is no frozenset; write needs: ClassVar[frozenset[str]] = frozenset({…})"
    assert needs <= set(SIDES), f"needs {sorted(needs)}; scores are of forget and retain only"


def has_shape_type_and_range(given: Given) -> None:
    """Bool, or float in [0, 1], of the shape asked for."""
    for shape in SHAPES:
        made = given(some_scores(shape), shape)
        assert isinstance(made, torch.Tensor), f"returned a {type(made).__name__}; a Tensor of {shape} is needed"
        assert made.shape == shape, f"returned shape {tuple(made.shape)} where {shape} was asked for"
        if made.dtype != torch.bool:
            assert made.is_floating_point(), f"returned {made.dtype}; bool, or float for weights, is needed"
            assert bool(((made >= 0) & (made <= 1)).all()), "returned weights outside [0, 1]"


def gives_the_same_mask_twice(given: Given) -> None:
    """A function of scores and fields: no clock, no global random generator."""
    for seed in SEEDS:
        first = given(some_scores(SHAPES[0], seed), SHAPES[0])
        torch.rand(1)
        again = given(some_scores(SHAPES[0], seed), SHAPES[0])
        assert first.equal(again), "the same scores gave another mask; draw from a Generator made of a field `seed`"


def draws_from_a_generator_of_its_own(given: Given) -> None:
    """torch's global random state is as it was."""
    torch.rand(1)  # a mask that seeds the generator leaves the same state each time
    before = torch.get_rng_state()
    given(some_scores(SHAPES[0]), SHAPES[0])
    assert before.equal(torch.get_rng_state()), "drew from torch's global generator; make one from a field `seed`"


def reads_what_it_names(given: Given) -> None:
    """Not constant where scores differ."""
    for side in sorted(given.mask.needs) or SIDES:
        masks = []
        for seed in SEEDS:
            sides = some_scores(SHAPES[0])
            sides[side] = some_scores(SHAPES[0], 1 + seed)[side]  # type: ignore[index]
            masks.append(given(sides, SHAPES[0]))
        assert any(not mask.equal(masks[0]) for mask in masks), (
            f"gave the same mask for {len(masks)} different {side} scores; does it read them, and should it need them?"
        )


def reads_only_what_it_names(given: Given) -> None:
    """Scores that `needs` leaves out change nothing."""
    shape = SHAPES[0]
    alone = given(some_scores(shape), shape)
    for seed in SEEDS:
        sides = some_scores(shape)
        sides |= {side: some_scores(shape, 1 + seed)[side] for side in SIDES if side not in given.mask.needs}
        made = given.mask(sides["forget"], sides["retain"], shape)
        assert made.equal(alone), "scores that `needs` does not name changed the mask; name them there"


def leaves_its_scores_alone(given: Given) -> None:
    """Its inputs are as they were."""
    sides = some_scores(SHAPES[0])
    before = {side: scores.values.clone() for side, scores in sides.items()}
    made = given(sides, SHAPES[0])
    for side, values in before.items():
        assert sides[side].values.equal(values), f"changed the {side} scores that it was given; clone before writing"
        assert made.data_ptr() != sides[side].values.data_ptr(), f"returned the {side} scores' own memory"


def takes_a_layer_without_positive_scores(given: Given) -> None:
    """A layer of zeros and one of negative scores are masks, not errors."""
    sides = some_scores(SHAPES[0])
    for scores in sides.values():
        scores.values[0], scores.values[1] = 0, -scores.values[1].abs()
    made = given(sides, SHAPES[0]).float()
    assert bool(torch.isfinite(made).all()), "is not finite where a layer's scores are 0 or below"


def refuses_scores_that_are_no_numbers(given: Given) -> None:
    """NaN in scores that it names is a UserError, not a mask."""
    for side in sorted(given.mask.needs):
        sides = some_scores(SHAPES[0])
        sides[side].values[1, 3] = torch.nan  # type: ignore[index]
        try:
            given(sides, SHAPES[0])
        except UserError:
            continue
        raise AssertionError(f"took {side} scores with a NaN in them; raise UserError (critical_neurons does)")


CHECKS: tuple[Check, ...] = (
    *of("mask"),
    names_what_it_needs,
    has_shape_type_and_range,
    gives_the_same_mask_twice,
    draws_from_a_generator_of_its_own,
    reads_only_what_it_names,
    reads_what_it_names,
    leaves_its_scores_alone,
    takes_a_layer_without_positive_scores,
    refuses_scores_that_are_no_numbers,
)
