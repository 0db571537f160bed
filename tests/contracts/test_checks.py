"""How checks are run, what every component has to keep, and the checks of masks: each fails on a planted mistake."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import torch
from annotated_types import Interval
from planted import assert_fails, planted

from simu import testing
from simu.fields import Share, component
from simu.masks.critical import critical_neurons
from simu.testing import attacks, attributions, datasets, evaluators, losses, masks, metrics, optimizers, perturbations
from simu.testing.contract import run_checks
from simu.types import NeuronMask, Scores

FORGET, BOTH = frozenset({"forget"}), frozenset({"forget", "retain"})
Sides = Scores | None
Shape = tuple[int, int]


def above_mean(scores: Sides) -> NeuronMask:
    assert scores is not None
    return critical_neurons(scores.values - scores.values.mean(dim=1, keepdim=True), 0.0)


# ---- declarations, on masks that compute the right thing


class Above:
    needs: ClassVar[frozenset[str]] = FORGET

    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        return above_mean(forget)


@component
class Right(Above):
    t: Share = 0.3


@dataclass(kw_only=True)
class Thawed(Above):
    t: Share = 0.3


@dataclass(frozen=True)
class ByPosition(Above):
    t: Share = 0.3


class NoDataclass(Above):
    t = 0.3


@component
class ForgetsAField(Above):
    t: Share = 0.3
    power = 2.0


@component
class HidesAField(Above):
    t: Share = 0.3
    power: Share = dataclasses.field(default=0.5, compare=False)


@component
class SetsBeside(Above):
    t: Share = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", 2.0)


@component
class NoYamlSets(Above):
    t: Share = 0.3
    power: Share = dataclasses.field(default=0.5, init=False)


@component
class NoRange(Above):
    t: float = 0.3


@component
class NoUpperEnd(Above):
    t: Annotated[float, Interval(ge=0)] = 0.3


@dataclass(frozen=True, kw_only=True)
class UncheckedRange(Above):
    t: Share = 0.3


@component
class ComesBackAnother(Above):
    t: Share = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "t", self.t / 2)


@planted(
    (Thawed(), "is_frozen", "can be changed after it was made"),
    (ByPosition(), "is_frozen", "takes t by position"),
    (NoDataclass(), "is_frozen", "is no dataclass"),
    (ForgetsAField(), "declares_every_field", "power has no annotation, so it is no field"),
    (HidesAField(), "declares_every_field", "power is left out of comparisons"),
    (SetsBeside(), "declares_every_field", "power is set beside the fields"),
    (NoYamlSets(), "declares_every_field", "power is a field that no yaml can set"),
    (NoRange(), "bounds_its_numbers", "t has no range"),
    (NoUpperEnd(), "bounds_its_numbers", "t has no upper end"),
    (UncheckedRange(), "bounds_its_numbers", "lies beyond its range and is taken"),
    (ComesBackAnother(), "rebuilds_from_its_fields", "made again of its own fields it is another"),
)
def test_how_a_component_is_declared(bad, name, says):
    testing.check_mask(Right())
    assert_fails(testing.check_mask, bad, name, says)


# ---- masks


@component
class Constant:
    """The same neurons whatever the scores."""

    needs: ClassVar[frozenset[str]] = FORGET
    t: Share = 0.3

    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        above_mean(forget)
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[:, ::2] = True
        return mask


@component
class ReadsWhatItDoesNotName(Constant):
    """Looks at the retain scores where they are there."""

    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        mask = above_mean(forget)
        return mask if retain is None else mask & above_mean(retain)


@component
class NeedsWhatItDoesNotRead(Constant):
    needs: ClassVar[frozenset[str]] = BOTH

    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        above_mean(retain)
        return above_mean(forget)


@component
class NamesAnOddSide(Constant):
    needs: ClassVar[frozenset[str]] = frozenset({"holdout"})


@component
class Transposed(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        return above_mean(forget).T


@component
class Counts(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        return above_mean(forget).long()


@component
class Heavy(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        return above_mean(forget).float() * 2


@component
class Unseeded(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        return above_mean(forget) & (torch.rand(shape) < 0.5)


@component
class SeedsTheWorld(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        torch.manual_seed(0)
        return above_mean(forget) & (torch.rand(shape) < 0.5)


@component
class WritesItsScores(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        mask = above_mean(forget)
        assert forget is not None
        forget.values.relu_()
        return mask


@component
class DividesByTheLargest(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        above_mean(forget)
        assert forget is not None
        largest = forget.values.relu()
        return largest / largest.amax(dim=1, keepdim=True)


@component
class TakesNaN(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        assert forget is not None
        return forget.values > forget.values.mean(dim=1, keepdim=True)


@component
class Broken(Constant):
    def __call__(self, forget: Sides, retain: Sides, shape: Shape) -> NeuronMask:
        raise KeyError("lost")


@planted(
    (NamesAnOddSide(), "names_what_it_needs", "forget and retain only"),
    (Transposed(), "has_shape_type_and_range", "returned shape (16, 2)"),
    (Counts(), "has_shape_type_and_range", "returned torch.int64"),
    (Heavy(), "has_shape_type_and_range", "outside [0, 1]"),
    (Unseeded(), "gives_the_same_mask_twice", "field `seed`"),
    (SeedsTheWorld(), "draws_from_a_generator_of_its_own", "global generator"),
    (ReadsWhatItDoesNotName(), "reads_only_what_it_names", "scores that `needs` does not name"),
    (Constant(), "reads_what_it_names", "the same mask for 5 different forget scores"),
    (NeedsWhatItDoesNotRead(), "reads_what_it_names", "the same mask for 5 different retain scores"),
    (WritesItsScores(), "leaves_its_scores_alone", "changed the forget scores"),
    (DividesByTheLargest(), "takes_a_layer_without_positive_scores", "is not finite"),
    (TakesNaN(), "refuses_scores_that_are_no_numbers", "raise UserError"),
)
def test_masks(bad, name, says):
    assert_fails(testing.check_mask, bad, name, says)


# ---- how checks are run


def holds(given: object) -> None:
    """It does."""


def fails(given: object) -> None:
    """It does."""
    raise AssertionError("the mistake")


def test_an_expected_failure_passes_and_must_fail():
    run_checks(Right(), None, [holds, fails], {"fails": "known"})
    with pytest.raises(AssertionError, match=r"^Right: fails: the mistake$"):
        run_checks(Right(), None, [holds, fails], None)
    with pytest.raises(AssertionError, match=r"^Right: holds: holds, but is expected to fail \(why\): take it out"):
        run_checks(Right(), None, [holds], {"holds": "why"})
    with pytest.raises(ValueError, match=r"no check is called holdz; there are holds, fails"):
        run_checks(Right(), None, [holds, fails], {"holdz": "why"})


def test_what_a_component_raises_is_a_failed_check():
    assert_fails(testing.check_mask, Broken(), "has_shape_type_and_range", "raised KeyError: 'lost'")


def test_each_check_has_a_name_of_its_own_and_says_what_it_asks():
    for module in (attacks, attributions, datasets, evaluators, losses, masks, metrics, optimizers, perturbations):
        names = [check.__name__ for check in module.CHECKS]
        assert len(set(names)) == len(names)
        assert all(check.__doc__ for check in module.CHECKS)
