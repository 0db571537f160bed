"""The checks of losses and of optimizers: each fails on a planted mistake."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from planted import assert_fails, planted
from torch import Tensor, nn

from simu import testing
from simu.fields import Positive, Rate, component
from simu.losses.logprobs import answer_loss, row_log_probs, token_log_probs
from simu.models.reference import Reference
from simu.types import IGNORE, Batch, Loss


@component
class Right:
    """CE, from which each bad loss differs by one mistake."""

    unit: ClassVar[str] = "token"
    answers: ClassVar[str] = "original"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)


@component
class IgnoresItsBatch(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        size = sum((p**2).sum() for p in model.parameters())
        labelled = int((batch["labels"][:, 1:] != IGNORE).sum())
        return Loss(size * labelled, labelled)


@component
class ReadsThePromptToo(Right):
    """Scores every token, labelled or not."""

    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
        whole = answer_loss(model, {**batch, "labels": labels})
        return Loss(whole.total, answer_loss(model, batch).count)


@component
class CountsRows(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        return Loss(answer_loss(model, batch).total, len(batch["labels"]))


@component
class CountsTokens(Right):
    unit: ClassVar[str] = "row"


@component
class Mean(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        return Loss(made.total / made.count, made.count)


@component
class PerRow(Right):
    unit: ClassVar[str] = "row"

    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        return Loss(-row_log_probs(model, batch), len(batch["labels"]))


@component
class Bare(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Any:
        return answer_loss(model, batch).total


@component
class NotFinite(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        return Loss(made.total / 0, made.count)


@component
class FirstRowTwice(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        return Loss(made.total - row_log_probs(model, batch)[0], made.count)


@component
class ReadsPadding(Right):
    """Says a little more for each column, which cancels over rows of one width."""

    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        return Loss(made.total * (1 + 1e-3 * batch["input_ids"].shape[1]), made.count)


@component
class Detached(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        log_probs, _ = token_log_probs(model, batch)
        return Loss((log_probs * log_probs.detach()).sum(), len(log_probs))


@component
class NoGradient(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        with torch.no_grad():
            return answer_loss(model, batch)


@component
class Uphill(Right):
    """Its gradient has the other sign: what it calls its value is not what it lowers."""

    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        return Loss(2 * made.total.detach() - made.total, made.count)


@component
class ClaimsAReference(Right):
    needs_reference: ClassVar[bool] = True

    def remember(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        return list(row_log_probs(model, batch).split(1))


@component
class RemembersNothing(Right):
    needs_reference: ClassVar[bool] = True


@component
class HidesItsReference(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        return made if reference is None else Loss(made.total - 1, made.count)


@component
class Noisy(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        return Loss(made.total * (1 + 1e-13 * torch.rand((), dtype=torch.float64)), made.count)


@component
class Draws(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        torch.rand(())
        return answer_loss(model, batch)


@component
class LeavesAHook(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        model.register_forward_hook(lambda *_: None)
        return answer_loss(model, batch)


@component
class LeavesTrainingMode(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model.train(), batch)


@component
class CutsItsBatch(Right):
    def __call__(self, model: Any, batch: Batch, reference: Reference | None = None) -> Loss:
        made = answer_loss(model, batch)
        batch["labels"].fill_(IGNORE)
        return made


@component
class NoUnit(Right):
    unit: ClassVar[str] = "sample"


@component
class NoSide:
    unit: ClassVar[str] = "token"
    needs_reference: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss:
        return answer_loss(model, batch)


@component
class NotNothing(Right):
    reads_rows: ClassVar[bool] = False


@planted(
    (NoUnit(), "says_what_it_is", "unit is missing or none of token, later_token, row"),
    (NoSide(), "says_what_it_is", "neither answers (a forget loss) nor reads_rows"),
    (RemembersNothing(), "says_what_it_is", "there is no remember(model, batch)"),
    (Bare(), "is_a_finite_number", "returned a Tensor"),
    (PerRow(), "is_a_finite_number", "sum it over rows and tokens"),
    (NotFinite(), "is_a_finite_number", "total is not finite"),
    (CountsRows(), "counts_its_unit", "count is 4 for 4 rows"),
    (CountsTokens(), "counts_its_unit", "unit is 'row'"),
    (IgnoresItsBatch(), "reads_its_batch", "does it read its batch?"),
    (ReadsThePromptToo(), "reads_its_batch", "the same value for fewer labels"),
    (Mean(), "is_the_sum_of_any_split", "return a sum over rows or tokens, never their mean"),
    (FirstRowTwice(), "is_the_sum_of_any_split", "over the parts"),
    (ReadsPadding(), "ignores_padding", "padding changes the value"),
    (NoGradient(), "has_the_gradient_of_its_value", "has no gradient"),
    (Detached(), "has_the_gradient_of_its_value", "is part of it detached?"),
    (Uphill(), "has_the_gradient_of_its_value", "its gradient says"),
    (ClaimsAReference(), "tells_the_truth_of_its_reference", "another reference changes nothing"),
    (HidesItsReference(), "tells_the_truth_of_its_reference", "a reference changes the value"),
    (Noisy(), "gives_the_same_value_twice", "field `seed`"),
    (CutsItsBatch(), "leaves_its_batch_alone", "changed the batch's labels"),
    (Draws(), "leaves_the_model_alone", "torch's random state"),
    (LeavesAHook(), "leaves_the_model_alone", "the model's hooks"),
    (LeavesTrainingMode(), "leaves_the_model_alone", "the model's mode"),
    (NotNothing(), "is_nothing", "reads_rows is False, but the loss is not 0"),
)
def test_losses(bad, name, says):
    testing.check_loss(Right())
    assert_fails(testing.check_loss, bad, name, says)


def test_a_loss_that_only_seems_to_fall():
    """Past the check of its gradient, the one of its step finds it too."""
    known = {"has_the_gradient_of_its_value": "planted"}
    assert_fails(testing.check_loss, Uphill(), "falls_with_a_small_step", "rose from", expected_failed_checks=known)


# ---- optimizers


class Descent(torch.optim.SGD):
    """SGD whose step a bad optimizer spoils."""

    def __init__(self, pairs: Any, lr: float, spoil: Any = None):
        super().__init__([p for _, p in pairs], lr=lr, momentum=0.5)
        self.spoil = spoil

    def step(self, closure: Any = None) -> None:
        super().step()
        if self.spoil:
            with torch.no_grad():
                self.spoil(self)


@component
class Plain:
    lr: Rate = 0.01
    weight_decay: Positive = 0.1

    def __call__(self, named_parameters: Any) -> torch.optim.Optimizer:
        return Descent(named_parameters, self.lr, self.spoil)

    @staticmethod
    def spoil(optimizer: Any) -> None:
        """Nothing."""


@component
class NoOptimizer(Plain):
    def __call__(self, named_parameters: Any) -> Any:
        return list(named_parameters)


@component
class DropsAParameter(Plain):
    def __call__(self, named_parameters: Any) -> torch.optim.Optimizer:
        return Descent(list(named_parameters)[1:], self.lr)


@component
class OtherRate(Plain):
    def __call__(self, named_parameters: Any) -> torch.optim.Optimizer:
        return Descent(named_parameters, 2 * self.lr)


@component
class Climbs(Plain):
    @staticmethod
    def spoil(optimizer: Any) -> None:
        for p in optimizer.param_groups[0]["params"]:
            if p.grad is not None:
                p += 2 * p.grad


@component
class MovesTheStill(Plain):
    @staticmethod
    def spoil(optimizer: Any) -> None:
        for p in optimizer.param_groups[0]["params"]:
            if p.grad is None:
                p *= 0.9


@component
class ForgetsItsState(Plain):
    """Counts its steps outside of `state`, so a restart begins to count again."""

    @staticmethod
    def spoil(optimizer: Any) -> None:
        optimizer.count = getattr(optimizer, "count", 0) + 1
        for p in optimizer.param_groups[0]["params"]:
            if p.grad is not None:
                p -= p.grad * 1e-3 * optimizer.count


@component
class DrawsItsStep(Plain):
    @staticmethod
    def spoil(optimizer: Any) -> None:
        for p in optimizer.param_groups[0]["params"]:
            if p.grad is not None:
                p -= p.grad * 1e-3 * torch.rand(())


@planted(
    (NoOptimizer(), "builds_a_torch_optimizer", "returned a list"),
    (DropsAParameter(), "builds_a_torch_optimizer", "each parameter exactly once"),
    (OtherRate(), "builds_a_torch_optimizer", "its groups' rates are [0.02]"),
    (Climbs(), "lowers_a_loss", "the loss of a parabola went from"),
    (MovesTheStill(), "leaves_what_has_no_gradient", "moved a parameter"),
    (ForgetsItsState(), "resumes_exactly", "differs after a restart"),
    (DrawsItsStep(), "resumes_exactly", "differs after a restart"),
)
def test_optimizers(bad, name, says):
    testing.check_optimizer(Plain())
    assert_fails(testing.check_optimizer, bad, name, says)


def test_an_optimizer_that_draws_is_found_by_its_steps():
    known = {"resumes_exactly": "planted"}
    bad, name = DrawsItsStep(), "gives_the_same_steps_twice"
    assert_fails(testing.check_optimizer, bad, name, "gave other steps", expected_failed_checks=known)
