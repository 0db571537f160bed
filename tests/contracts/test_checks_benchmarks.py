"""The checks of data sets, evaluators and metrics: each fails on a planted mistake."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from planted import assert_fails, planted

from simu import testing
from simu.data.batching import collate, encode_examples
from simu.fields import KNOB, Count, component
from simu.metrics.metric import KNOWN, Metric, Near, row_mean
from simu.types import Evaluation, Example, Splits, Subject

# ---- data


def rows(split: str, count: int) -> tuple[Example, ...]:
    return tuple(Example(id=f"{split}/{i}", prompt=f"{split} {i}?", answer=f"{split} answer {i}") for i in range(count))


@component
class Right:
    """Two rows to forget and three to keep, from which each bad data set differs by one mistake."""

    name: str = "right"
    path: None = None
    forget: str = "all"
    overlap: str = "refuse"

    def __call__(self) -> Splits:
        forget, retain, held = rows("forget", 2), rows("retain", 3), rows("holdout", 2)
        evaluation = {"forget": forget, "retain": retain, "holdout": held}
        return self.spoilt(Splits(name=self.name, forget=forget, retain=retain, evaluation=evaluation))

    def spoilt(self, splits: Splits) -> Splits:
        return splits


@component
class NoPath:
    name: str = "no path"
    forget: str = "all"

    def __call__(self) -> Splits:
        return replace(Right()(), name=self.name)


@component
class OtherName(Right):
    def spoilt(self, splits: Splits) -> Splits:
        return replace(splits, name="other")


@component
class NothingToForget(Right):
    def spoilt(self, splits: Splits) -> Splits:
        return replace(splits, forget=())


@component
class NothingEvaluated(Right):
    def spoilt(self, splits: Splits) -> Splits:
        return replace(splits, evaluation={"forget": splits.forget})


@component
class SameIdTwice(Right):
    def spoilt(self, splits: Splits) -> Splits:
        return replace(splits, background=(replace(splits.retain[0], prompt="another?"),))


@component
class Overlaps(Right):
    """One row is in both, with an id of its own in each."""

    def spoilt(self, splits: Splits) -> Splits:
        again = replace(splits.forget[1], id="retain/again")
        retain = (*splits.retain, again)
        return replace(splits, retain=retain, evaluation={**splits.evaluation, "retain": retain})


@component
class Blank(Right):
    def spoilt(self, splits: Splits) -> Splits:
        return replace(splits, background=(Example(id="b", prompt="b?", answer=" \n"),))


@component
class EvaluatesOtherWords(Right):
    def spoilt(self, splits: Splits) -> Splits:
        other = replace(splits.forget[0], answer="other")
        return replace(splits, evaluation={**splits.evaluation, "forget": (other,)})


@component
class EvaluatesUntaughtRows(Right):
    def spoilt(self, splits: Splits) -> Splits:
        return replace(splits, evaluation={**splits.evaluation, "retain": rows("unknown", 1)})


@component
class TeachesWhatItHoldsOut(Right):
    def spoilt(self, splits: Splits) -> Splits:
        taught = replace(splits.retain[0], id="holdout/9")
        return replace(splits, evaluation={**splits.evaluation, "holdout": (taught,)})


@component
class Unseeded(Right):
    def spoilt(self, splits: Splits) -> Splits:
        return replace(splits, background=(Example(id="b", prompt="b?", answer=str(random.SystemRandom().random())),))


@planted(
    (NoPath(), "has_the_common_keys", "has no field 'path'"),
    (OtherName(), "gives_rows", "calls its splits 'other'"),
    (NothingToForget(), "gives_rows", "has no forget rows"),
    (NothingEvaluated(), "gives_rows", "evaluation['retain'] is empty"),
    (SameIdTwice(), "gives_each_row_an_id_of_its_own", "'retain/0' more than once in the taught rows"),
    (Overlaps(), "keeps_forget_and_retain_apart", "'forget/1' is retained, too, as 'retain/again'"),
    (Blank(), "has_text_in_every_row", "'b' has a blank answer"),
    (EvaluatesOtherWords(), "evaluates_what_it_teaches", "'forget/0' of forget differs from"),
    (EvaluatesUntaughtRows(), "evaluates_what_it_teaches", "'unknown/0' of retain is not among"),
    (TeachesWhatItHoldsOut(), "holds_out_what_it_does_not_teach", "'holdout/9' of holdout is taught, too"),
    (Unseeded(), "gives_the_same_rows_twice", "field `seed`"),
)
def test_data(bad, name, says):
    testing.check_data(Right())
    assert_fails(testing.check_data, bad, name, says)


# ---- evaluators


@component
class Loss:
    """Mean NLL of each split's answers, from which each bad evaluator differs by one mistake."""

    batch_rows: Annotated[Count, KNOB] = 16
    benchmark: ClassVar[str] = "qa"

    def check(self) -> None:
        """Nothing is out of reach."""

    def __call__(self, subject: Subject, splits: Splits, *, reference: object = None) -> Evaluation:
        made: dict[str, float] = {}
        for split in ("forget", "retain"):
            with torch.no_grad():
                rows = encode_examples(subject.tokenizer, subject.template, splits.evaluation[split])
                batch = collate(rows, subject.tokenizer.pad_token_id)
                made[f"{split}/mean_nll"] = float(subject.model(**batch).loss)
        records = [{"split": split, "id": row.id} for split in ("forget", "retain") for row in splits.evaluation[split]]
        return self.spoilt(Evaluation(metrics=made, rows=records), subject.model)

    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return made


@component
class NoBenchmark(Loss):
    benchmark: ClassVar[str] = ""


@component
class OutOfReach(Loss):
    def check(self) -> None:
        raise OSError("no encoder")


@component
class Empty(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return Evaluation(metrics={}, rows=made.rows)


@component
class Braces(Loss):
    """{} itself."""

    def spoilt(self, made: Evaluation, model: Any) -> Any:
        return {}


@component
class Infinite(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, metrics={**made.metrics, "forget/probability": float("nan")})


@component
class RetainAlone(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, metrics={"retain/mean_nll": made.metrics["retain/mean_nll"]})


@component
class InventsAKey(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, metrics={**made.metrics, "forget/brilliance": 0.5})


@component
class BeyondItsBounds(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, metrics={**made.metrics, "forget/exact_match": 1.5})


@component
class NoRows(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, rows=[])


@component
class ForeignRows(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, rows=[{"split": "forget", "id": "nobody"}])


@component
class Constant(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, metrics=dict.fromkeys(made.metrics, 0.5))


@component
class ReadsTheModelAlone(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        size = float(next(model.parameters()).detach().abs().mean())
        return replace(made, metrics=dict.fromkeys(made.metrics, size))


@component
class Drifts(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, metrics={key: value + float(torch.rand(())) for key, value in made.metrics.items()})


@component
class LeavesTrainingMode(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        model.train()
        return made


@component
class KnobMatters(Loss):
    def spoilt(self, made: Evaluation, model: Any) -> Evaluation:
        return replace(made, metrics={key: value + self.batch_rows for key, value in made.metrics.items()})


@planted(
    (NoBenchmark(), "names_its_benchmark", "has no benchmark"),
    (OutOfReach(), "can_be_checked_before_a_run", "raised OSError: no encoder"),
    (Empty(), "returns_figures", "returned no figure at all"),
    (Braces(), "returns_figures", "returned a dict"),
    (Infinite(), "returns_figures", "forget/probability is nan"),
    (RetainAlone(), "returns_figures", "no figure of the rows to forget"),
    (InventsAKey(), "returns_figures_of_the_table", "forget/brilliance is in no table"),
    (BeyondItsBounds(), "returns_figures_of_the_table", "forget/exact_match is 1.5, outside"),
    (NoRows(), "returns_rows", "returned no rows"),
    (ForeignRows(), "returns_rows", "('forget', 'nobody')"),
    (Constant(), "reads_the_model", "does it ask the model?"),
    (ReadsTheModelAlone(), "reads_the_rows", "does it read splits.evaluation?"),
    (Drifts(), "gives_the_same_figures_twice", "seeded generator"),
    (LeavesTrainingMode(), "leaves_the_model_alone", "the model's mode"),
    (KnobMatters(), "has_knobs_that_change_nothing", "batch_rows=32 changes forget/mean_nll"),
)
def test_evaluators(bad, name, says):
    assert_fails(testing.check_evaluator, bad, name, says)


def test_an_evaluator_that_is_right_passes():
    testing.check_evaluator(Loss())


# ---- metrics


def metric(**changes: Any) -> Metric:
    fields = {"key": "length", "label": "Length", "source": "ours", "bounds": (0, 1e4), "better": {}, **changes}
    score = fields.pop("score", lambda e: float(len(e.generation.text)))
    return row_mean(fields.pop("key"), fields.pop("label"), "text", score, fields.pop("source"), **fields)


@planted(
    (metric(key="a length"), "has_a_key_of_its_own", "parts are [a-z0-9_]+"),
    (metric(key="length/n"), "has_a_key_of_its_own", "holds 'n'"),
    (metric(key="exact_match"), "has_a_key_of_its_own", "is another entry's, too"),
    (metric(label=" "), "says_what_it_is", "has no label"),
    (metric(source=""), "says_what_it_is", "has no source"),
    (metric(benchmarks=frozenset({"tofuu"})), "says_what_it_is", "benchmarks are"),
    (metric(better={"forgotten": "lower"}), "has_directions_by_role", "is better for 'forgotten'"),
    (metric(better={"forget": "smaller"}), "has_directions_by_role", "lower, higher or Near"),
    (metric(better={"forget": Near(value=-1)}), "has_directions_by_role", "outside its bounds"),
    (metric(bounds=(1, 0)), "has_bounds", "the least comes first"),
    (metric(chance=-0.5), "has_bounds", "chance is outside"),
    (metric(bounds=(0, 1)), "scores_rows_within_its_bounds", "outside its bounds (0, 1)"),
    (metric(score=lambda e: float("nan")), "scores_rows_within_its_bounds", "return None where a row has no score"),
    (metric(score=lambda e: 1.0), "reads_its_row", "is 1.0 of every row"),
    (metric(score=lambda e: random.SystemRandom().random()), "reads_its_row", "gave other scores"),
)
def test_metrics(bad, name, says):
    testing.check_metric(metric(better=KNOWN))
    assert_fails(testing.check_metric, bad, name, says)
