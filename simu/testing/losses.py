"""What a loss must be: a sum over the rows of a batch, differentiable, and a count of what it is a sum over."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast, get_args

import torch
from torch import Tensor

from simu.models.reference import Reference, Remembers, untouched_head
from simu.slots import Answers, LossTerm, Unit
from simu.testing.bench import close, left_alone, small_model, small_rows, take, with_more_padding
from simu.testing.contract import Check, of, run_checks
from simu.types import IGNORE, Batch, Loss

TOLERANCE = 1e-6
"""Relative: log-probabilities may be float32 inside a loss, though the model is float64."""


@dataclass(frozen=True)
class Given:
    """A loss, the untouched model, and one that has moved away from it. Pairs are what a batch is split by: one row,
    or with answers="both" the row of an answer and that of its alternative."""

    term: LossTerm
    pairs: int = 4
    model: Any = field(default_factory=small_model)

    @property
    def columns(self) -> int:
        return 2 if getattr(self.term, "answers", "original") == "both" else 1

    @property
    def batch(self) -> Batch:
        return small_rows(count=self.pairs * self.columns)

    @cached_property
    def moved(self) -> Any:
        return moved(self.model, seed=1)

    def rows(self, pairs: Sequence[int]) -> list[int]:
        return [column * self.pairs + pair for column in range(self.columns) for pair in pairs]

    def __call__(self, pairs: Sequence[int] | None = None, batch: Batch | None = None, model: Any = None) -> Loss:
        """Of some pairs of `batch`, in that order; what the untouched model said is of the same batch."""
        whole = self.batch if batch is None else batch
        chosen = take(whole, self.rows(range(self.pairs) if pairs is None else pairs))
        return self.term(self.moved if model is None else model, chosen, self.reference(chosen, self.model))

    def reference(self, batch: Batch, untouched: Any) -> Reference | None:
        if not self.term.needs_reference:
            return None
        with torch.no_grad():
            values = cast(Remembers, self.term).remember(untouched, batch)
        return Reference(torch.cat(values), untouched_head(untouched))


def moved(model: Any, seed: int, by: float = 0.05) -> Any:
    """The model with seeded noise on each weight."""
    generator, other = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p += by * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return other


def check_loss(loss: LossTerm, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold a forget or a retain loss to its contract (`simu.slots.ForgetLoss`, `RetainLoss`). Raises AssertionError,
    naming loss, check and mistake.

    A loss with a weight that it detaches says so: expected_failed_checks={"has_the_gradient_of_its_value": "…"}.
    """
    checks = CHECKS if getattr(loss, "reads_rows", True) else NO_ROWS
    run_checks(loss, Given(loss), checks, expected_failed_checks)


def says_what_it_is(given: Given) -> None:
    """`unit`, `needs_reference`, and `answers` (a forget loss) or `reads_rows` (a retain loss)."""
    term: Any = given.term
    assert getattr(term, "unit", None) in get_args(Unit), f"unit is missing or none of {', '.join(get_args(Unit))}"
    needs = getattr(term, "needs_reference", None)
    assert isinstance(needs, bool), "needs_reference is missing or neither True nor False"
    assert not needs or hasattr(term, "remember"), "needs_reference is True, but there is no remember(model, batch)"
    forget, retain = hasattr(term, "answers"), hasattr(term, "reads_rows")
    assert forget or retain, "has neither answers (a forget loss) nor reads_rows (a retain loss)"
    assert not forget or term.answers in get_args(Answers), f"answers is none of {', '.join(get_args(Answers))}"


def is_nothing(given: Given) -> None:
    """A loss with reads_rows=False is 0, so that training need make no pass for it."""
    assert float(given().total.detach()) == 0, "reads_rows is False, but the loss is not 0"


def is_a_finite_number(given: Given) -> None:
    """`total` is a Tensor of no dimension."""
    made = given()
    assert isinstance(made, Loss), f"returned a {type(made).__name__}; a simu.types.Loss(total, count) is needed"
    assert isinstance(made.total, Tensor), "total is no Tensor"
    assert made.total.shape == (), f"total has shape {tuple(made.total.shape)}; sum it over rows and tokens"
    assert bool(torch.isfinite(made.total)), "total is not finite"


def counts_its_unit(given: Given) -> None:
    """`count` is the number of labelled tokens, of those after the first of each row, or of rows."""
    labelled = int((given.batch["labels"][:, 1:] != IGNORE).sum())
    rows = len(given.batch["labels"])
    expected = {"row": given.pairs, "token": labelled, "later_token": labelled - rows}[given.term.unit]
    count = given().count
    assert count == expected, (
        f"count is {count} for {given.pairs} rows with {labelled} labelled tokens, and unit is "
        f"{given.term.unit!r}; {expected} is needed"
    )


def reads_its_batch(given: Given) -> None:
    """Other rows, and other labels of the same prompts, give another value."""
    value = float(given().total.detach())
    assert not close(given(batch=other_rows(given)).total.detach(), value), (
        "gave the same value for other rows; does it read its batch?"
    )
    fewer = take(given.batch, range(given.pairs * given.columns))
    fewer["labels"] = fewer["labels"].clone()
    for row in fewer["labels"]:
        row[(row != IGNORE).nonzero()[0]] = IGNORE
    assert not close(given(batch=fewer).total, value), (
        "gave the same value for fewer labels; the loss is of labelled tokens alone"
    )


def other_rows(given: Given) -> Batch:
    return small_rows(seed=1, count=given.pairs * given.columns)


def is_the_sum_of_any_split(given: Given) -> None:
    """Gradient accumulation over micro-batches is exact."""
    whole = given()
    for parts in (([0], [1, 2, 3]), ([0, 1], [2, 3]), ([0], [1], [2], [3])):
        losses = [given(part) for part in parts]
        assert sum(loss.count for loss in losses) == whole.count, f"count of {parts} does not add up to the batch's"
        total = torch.stack([loss.total.detach() for loss in losses]).sum()
        assert close(total, whole.total, TOLERANCE), (
            f"{float(total):.8g} over the parts {parts}, {float(whole.total.detach()):.8g} over the batch; "
            "return a sum over rows or tokens, never their mean"
        )


def ignores_the_order_of_rows(given: Given) -> None:
    """Rows in another order have the same sum."""
    assert close(given([3, 1, 0, 2]).total, given().total, TOLERANCE), (
        "another order of rows gives another value; do rows of the batch see each other?"
    )


def ignores_padding(given: Given) -> None:
    """Columns that nothing attends to and nothing scores change neither total nor count."""
    more, plain = given(batch=with_more_padding(given.batch)), given()
    assert more.count == plain.count, "padding is counted; count labelled tokens"
    assert close(more.total, plain.total, TOLERANCE), "padding changes the value; read labelled positions alone"


def has_the_gradient_of_its_value(given: Given) -> None:
    """Along a random direction the gradient is the value's central difference, in float64."""
    model = copy.deepcopy(given.moved)
    gradient = gradient_of(given, model)
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in gradient]
    slope = float(sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)))
    eps = 1e-5
    ahead, behind = (float(given(model=stepped(model, direction, step)).total.detach()) for step in (eps, -eps))
    measured = (ahead - behind) / (2 * eps)
    assert close(slope, measured, 1e-5), (
        f"its gradient says {slope:.6g} along a direction, its value {measured:.6g}; is part of it detached?"
    )


def gradient_of(given: Given, model: Any) -> list[Tensor]:
    total = given(model=model).total
    assert total.requires_grad, "has no gradient; is the model run under no_grad, or the loss detached?"
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.parameters(), strict=True)]


def stepped(model: Any, direction: Sequence[Tensor], size: float) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p, d in zip(other.parameters(), direction, strict=True):
            p += size * d
    return other


def falls_with_a_small_step(given: Given) -> None:
    """A step against the gradient lowers it: signs are included."""
    model = copy.deepcopy(given.moved)
    gradient = gradient_of(given, model)
    norm = float(sum((g * g).sum() for g in gradient)) ** 0.5
    assert norm > 0, "its gradient is 0"
    before, after = (float(given(model=stepped(model, gradient, size)).total.detach()) for size in (0.0, -1e-4 / norm))
    assert after < before, f"rose from {before:.8g} to {after:.8g} with a step against its gradient"


def tells_the_truth_of_its_reference(given: Given) -> None:
    """With needs_reference another untouched model gives another value; without, a reference changes nothing."""
    batch, model, term = given.batch, given.moved, given.term
    if term.needs_reference:
        other = term(model, batch, given.reference(batch, moved(given.model, seed=5, by=0.2)))
        assert not close(other.total, given().total), "needs_reference is True, but another reference changes nothing"
        return
    reference = Reference(torch.zeros(len(batch["labels"])), untouched_head(given.model))
    assert term(model, batch, reference).total.equal(given().total), (
        "needs_reference is False, but a reference changes the value"
    )


def leaves_the_model_alone(given: Given) -> None:
    """Weights, gradients, mode, hooks and random generators are as they were; also after `remember`."""
    fresh, batch = Given(given.term), given.batch
    with left_alone(fresh.model):
        reference = fresh.reference(batch, fresh.model)
    with left_alone(fresh.moved):
        given.term(fresh.moved, batch, reference)


def gives_the_same_value_twice(given: Given) -> None:
    """A function of model, batch and fields."""
    first = given().total
    torch.rand(1)
    assert first.equal(given().total), "the same batch gave another value; draw from a Generator made of a field `seed`"


def leaves_its_batch_alone(given: Given) -> None:
    """Its inputs are as they were."""
    batch = given.batch
    before = {name: tensor.clone() for name, tensor in batch.items()}  # type: ignore[attr-defined]
    given.term(given.moved, batch, given.reference(batch, given.model))
    changed = [name for name, tensor in before.items() if not batch[name].equal(tensor)]  # type: ignore[literal-required]
    assert not changed, f"changed the batch's {changed[0]}; clone before writing"


CHECKS: tuple[Check, ...] = (
    *of("term"),
    says_what_it_is,
    is_a_finite_number,
    counts_its_unit,
    reads_its_batch,
    is_the_sum_of_any_split,
    ignores_the_order_of_rows,
    ignores_padding,
    has_the_gradient_of_its_value,
    falls_with_a_small_step,
    gives_the_same_value_twice,
    tells_the_truth_of_its_reference,
    leaves_its_batch_alone,
    leaves_the_model_alone,
)
NO_ROWS: tuple[Check, ...] = (*of("term"), says_what_it_is, is_nothing)
