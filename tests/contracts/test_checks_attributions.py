"""The checks of attributions: each fails on a planted mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from planted import assert_fails, planted
from torch import Tensor

from simu import testing
from simu.fields import KNOB, Positive, component
from simu.models.anatomy import anatomy
from simu.types import IGNORE, NeuronUnit, UserError

Batch = Mapping[str, Tensor]


def rows_of(batch: Batch, kept: Tensor) -> dict[str, Tensor]:
    return {name: tensor[kept] for name, tensor in batch.items()}


@component
class Sums:
    """Squared gradient of each row's log-likelihood, by down-projection output channel, added up over rows; each bad
    attribution differs by one mistake."""

    reads_other: ClassVar[bool] = False
    unit: NeuronUnit = "row"
    scale: Annotated[Positive, KNOB] = 1.0

    def __call__(
        self, model: Any, batches: Any, *, against: Any = None, checkpoint: str | Path | None = None
    ) -> Tensor:
        return self.whole(model, [dict(batch) for batch in batches]).float()

    def whole(self, model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
        return sum((self.of(model, batch) for batch in batches), torch.zeros(2, 16).double())

    def of(self, model: Any, batch: Batch) -> Tensor:
        """float64 [L, D] of one batch."""
        whole = torch.arange(len(batch["labels"])).split(1)
        return sum((self.of_row(model, rows_of(batch, row)) for row in whole), torch.zeros(2, 16).double())

    def of_row(self, model: Any, row: Batch) -> Tensor:
        weights = [module.weight for module in anatomy(model).down_projections]
        logits = model(input_ids=row["input_ids"], attention_mask=row["attention_mask"]).logits[:, :-1]
        labels = row["labels"][:, 1:]
        log_probs = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        total = log_probs[labels != IGNORE].sum()
        return torch.stack([g.detach().square().sum(dim=1) for g in torch.autograd.grad(total, weights)])


@component
class Zeros(Sums):
    def of(self, model: Any, batch: Batch) -> Tensor:
        return torch.zeros(2, 16).double()


@component
class OneLayer(Sums):
    def of(self, model: Any, batch: Batch) -> Tensor:
        return super().of(model, batch) * torch.tensor([[1.0], [0.0]])


@component
class Transposed(Sums):
    def __call__(self, model: Any, batches: Any, **options: Any) -> Tensor:
        return super().__call__(model, batches, **options).T


@component
class Doubles(Sums):
    def __call__(self, model: Any, batches: Any, **options: Any) -> Tensor:
        return super().__call__(model, batches, **options).double()


@component
class NotFinite(Sums):
    def of(self, model: Any, batch: Batch) -> Tensor:
        return super().of(model, batch) / 0


@component
class ReadsTheModelAlone(Sums):
    def of(self, model: Any, batch: Batch) -> Tensor:
        sizes = torch.stack([module.weight.detach().square().sum(dim=1) for module in anatomy(model).down_projections])
        return sizes * len(batch["labels"])


@component
class ScoresThePrompt(Sums):
    def of(self, model: Any, batch: Batch) -> Tensor:
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
        return super().of(model, {**batch, "labels": labels})


@component
class MeanOverBatches(Sums):
    def whole(self, model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
        return super().whole(model, batches) / len(batches)


@component
class MeanOverRows(Sums):
    """Its completeness would be that of a sum."""

    def whole(self, model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
        return super().whole(model, batches) / sum(len(b["labels"]) for b in batches)

    def with_completeness(self, model: Any, batches: Any, *, checkpoint: Any = None) -> tuple[Tensor, None]:
        return self(model, batches, checkpoint=checkpoint), None


@component
class FirstBatchCountsMost(Sums):
    """Adds up rightly where batches have one row each or are few, but the first of three counts twice."""

    def whole(self, model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
        made = super().whole(model, batches)
        return made + self.of(model, batches[0]) if len(batches) == 3 else made


@component
class NormalisesByWidth(Sums):
    def of(self, model: Any, batch: Batch) -> Tensor:
        rows = len(batch["labels"])
        wide = batch["input_ids"].shape[1] > batch["attention_mask"].sum(dim=1).max()
        return super().of(model, batch) * (1.01 if wide and rows == 6 else 1)


@component
class Unseeded(Sums):
    def whole(self, model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
        return super().whole(model, batches) * (1 + 2e-6 * torch.rand(()))


@component
class AddsToItsCheckpoint(Sums):
    def __call__(self, model: Any, batches: Any, *, checkpoint: Any = None, **options: Any) -> Tensor:
        made = super().__call__(model, batches, **options)
        if checkpoint is None:
            return made
        earlier = torch.load(checkpoint) if Path(checkpoint).exists() else torch.zeros_like(made)
        torch.save(made + earlier, checkpoint)
        return made + earlier


@component
class LeavesAHook(Sums):
    def of(self, model: Any, batch: Batch) -> Tensor:
        anatomy(model).blocks[0].register_forward_hook(lambda *_: None)
        return super().of(model, batch)


@component
class LeavesGradients(Sums):
    def of_row(self, model: Any, row: Batch) -> Tensor:
        model(input_ids=row["input_ids"]).logits.sum().backward()
        return super().of_row(model, row)


@component
class KnobMatters(Sums):
    def whole(self, model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
        return super().whole(model, batches) * self.scale


@component
class SaysNothing(Sums):
    reads_other: ClassVar[bool] = None  # type: ignore[assignment]


@component
class Ratio(Sums):
    """Squared gradients over those of the other side: no sum, and right as it is."""

    reads_other: ClassVar[bool] = True

    def __call__(self, model: Any, batches: Any, *, against: Any = None, **_: Any) -> Tensor:
        if against is None:
            raise UserError("not without the other side")
        own, other = (self.whole(model, [dict(batch) for batch in side]) for side in (batches, against))
        return self.ratio(own, other).float()

    def ratio(self, own: Tensor, other: Tensor) -> Tensor:
        return own / (other + 1e-5)


@component
class ZerosAgainst(Ratio):
    def ratio(self, own: Tensor, other: Tensor) -> Tensor:
        return super().ratio(own, other) * 0


@component
class RatioMeanOverBatches(Ratio):
    """No sum has to add up, but batches are no rows all the same."""

    def whole(self, model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
        return super().whole(model, batches) / len(batches)


@component
class RatioByOtherBatches(Ratio):
    def __call__(self, model: Any, batches: Any, *, against: Any = None, **options: Any) -> Tensor:
        return super().__call__(model, batches, against=against, **options) * (1 if against is None else len(against))


@component
class RatioOfNothing(Ratio):
    def ratio(self, own: Tensor, other: Tensor) -> Tensor:
        return own


@component
class RatioTakesNone(Ratio):
    def __call__(self, model: Any, batches: Any, *, against: Any = None, **options: Any) -> Tensor:
        return super().__call__(model, batches, against=against or batches, **options)


@component
class ReadsTheOtherSideUnsaid(Sums):
    def __call__(self, model: Any, batches: Any, *, against: Any = None, **options: Any) -> Tensor:
        made = super().__call__(model, batches, **options)
        return made if against is None else made / self.whole(model, [dict(b) for b in against]).float()


@planted(
    (SaysNothing(), "says_what_it_is", "reads_other is None"),
    (Transposed(), "has_shape_and_type", "[layers, neurons] = (2, 16)"),
    (Doubles(), "has_shape_and_type", "returned torch.float64"),
    (Zeros(), "is_finite_and_not_zero", "zeros alone for layer(s) [0, 1]"),
    (OneLayer(), "is_finite_and_not_zero", "zeros alone for layer(s) [1]"),
    (NotFinite(), "is_finite_and_not_zero", "not finite"),
    (ReadsTheModelAlone(), "reads_its_batches", "the same scores for other rows"),
    (ScoresThePrompt(), "reads_its_batches", "the same scores for fewer labels"),
    (MeanOverBatches(), "ignores_how_rows_are_batched", "never means over a batch"),
    (MeanOverRows(), "adds_up_over_rows", "do not normalise by what was given"),
    (ZerosAgainst(), "is_finite_and_not_zero", "zeros alone"),
    (RatioMeanOverBatches(), "ignores_how_rows_are_batched", "never means over a batch"),
    (RatioByOtherBatches(), "ignores_how_rows_are_batched", "another cut of the other side's rows"),
    (RatioOfNothing(), "compares_where_it_says", "does it need reads_other?"),
    (RatioTakesNone(), "compares_where_it_says", "took no rows to compare with"),
    (ReadsTheOtherSideUnsaid(), "compares_where_it_says", "it must say reads_other = True"),
    (FirstBatchCountsMost(), "ignores_the_order_of_batches", "another order of batches"),
    (NormalisesByWidth(), "ignores_padding", "padding changes the scores"),
    (Unseeded(), "gives_the_same_scores_twice", "field `seed`"),
    (AddsToItsCheckpoint(), "gives_the_same_scores_twice", "with a checkpoint, second call"),
    (LeavesAHook(), "leaves_the_model_alone", "the model's hooks"),
    (LeavesGradients(), "leaves_the_model_alone", "the weights' .grad"),
    (KnobMatters(), "has_knobs_that_change_nothing", "scale=2.0 changes the scores"),
)
def test_attributions(bad, name, says):
    assert_fails(testing.check_attribution, bad, name, says)


def test_an_attribution_that_is_right_passes():
    testing.check_attribution(Sums())
    testing.check_attribution(Ratio())
