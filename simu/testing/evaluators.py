"""What an evaluator must be: figures of one model, which another model changes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from simu.data.mini import Mini
from simu.metrics.metric import SUFFIXES, find
from simu.models.load import texts_of, train_tokenizer
from simu.slots import Evaluator
from simu.testing.bench import left_alone
from simu.testing.contract import Check, of, run_checks, with_other_knobs
from simu.types import Evaluation, Splits, Subject, Template

TOLERANCE = 1e-4
"""Of figures computed in batches of other sizes."""


@dataclass(frozen=True)
class Given:
    evaluator: Evaluator
    splits: Splits

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        rows = [row for split in self.splits.evaluation.values() for row in split]
        return train_tokenizer(texts_of([(r.prompt, r.answer) for r in rows], self.template), 400)

    @property
    def template(self) -> Template:
        return self.splits.template or Template(prompt="Q: {prompt}\nA:")

    def model(self, seed: int = 0) -> PreTrainedModel:
        """A random two-layer LLaMA for that tokenizer."""
        config = LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    def __call__(self, evaluator: Evaluator | None = None, model: PreTrainedModel | None = None) -> Evaluation:
        ask, asked = evaluator or self.evaluator, model or self.model()
        return ask(Subject(asked, self.tokenizer, self.template, max_length=512), self.splits)

    @cached_property
    def first(self) -> Evaluation:
        return self()


def check_evaluator(
    evaluator: Evaluator, *, splits: Splits | None = None, expected_failed_checks: Mapping[str, str] | None = None
) -> None:
    """Hold an evaluator to its slot's contract (`simu.slots.Evaluator`) on small random models. Raises AssertionError,
    naming evaluator, check and mistake.

    splits: some rows of the kind that it scores; None takes eight of `mini` a split. An evaluator that generates is
    quicker with a small `max_new_tokens`.
    """
    rows = splits or Mini(authors=4, holdout_authors=1, evaluation_rows=8)()
    run_checks(evaluator, Given(evaluator, rows), CHECKS, expected_failed_checks)


def names_its_benchmark(given: Given) -> None:
    """`benchmark` heads its tables."""
    name = getattr(given.evaluator, "benchmark", "")
    assert isinstance(name, str), "benchmark is no text"
    assert name, "has no benchmark; write benchmark: ClassVar[str] = 'name' (simu.metrics.benchmarks)"


def can_be_checked_before_a_run(given: Given) -> None:
    """`check()` says what is out of reach before hours of work."""
    given.evaluator.check()


def returns_figures(given: Given) -> None:
    """Flat, finite, and some of the rows to forget among them."""
    made = given.first
    assert isinstance(made, Evaluation), f"returned a {type(made).__name__}; simu.types.Evaluation is needed"
    assert made.metrics, "returned no figure at all"
    for key, value in made.metrics.items():
        assert isinstance(value, int | float), f"{key} is a {type(value).__name__}; metrics are numbers"
        assert math.isfinite(value), f"{key} is {value}; leave out what the rows cannot give"
    assert any(key.startswith("forget/") for key in made.metrics), "has no figure of the rows to forget (forget/…)"


def returns_figures_of_the_table(given: Given) -> None:
    """Each key is an entry of the metric table, and its value within that entry's bounds."""
    for key, value in given.first.metrics.items():
        if key.split("/")[-1] in SUFFIXES:
            continue
        entry = find(key)
        assert entry is not None, (
            f"{key} is in no table: reports would not know which way it is better; declare a Metric in METRICS of "
            "the module of simu.metrics that computes it"
        )
        low, high = entry.metric.bounds
        assert low <= value <= high, f"{key} is {value}, outside the bounds {entry.metric.bounds} that it declares"


def returns_rows(given: Given) -> None:
    """generations.jsonl: JSON, each with id and split of a row that it was given."""
    made = given.first
    assert made.rows, "returned no rows; generations.jsonl would be empty"
    known = {(split, row.id) for split, rows in given.splits.evaluation.items() for row in rows}
    for row in made.rows:
        place: tuple[Any, Any] = (row.get("split"), row.get("id"))
        assert place in known, f"returned a row of split and id {place}, which it was not given"
        json.dumps(row)


def reads_the_model(given: Given) -> None:
    """Two models have different figures."""
    other = given(model=given.model(seed=1)).metrics
    assert other != given.first.metrics, "gave two different models the same figures; does it ask the model?"


def reads_the_rows(given: Given) -> None:
    """Fewer rows have different figures."""
    fewer = Splits(
        name=given.splits.name,
        forget=given.splits.forget,
        retain=given.splits.retain,
        evaluation={split: rows[: (len(rows) + 1) // 2] for split, rows in given.splits.evaluation.items()},
        background=given.splits.background,
        template=given.splits.template,
    )
    made = given.evaluator(Subject(given.model(), given.tokenizer, given.template, max_length=512), fewer)
    assert made.metrics != given.first.metrics, "gave half the rows the same figures; does it read splits.evaluation?"


def gives_the_same_figures_twice(given: Given) -> None:
    """A function of model, rows and fields."""
    torch.rand(1)
    assert given().metrics == given.first.metrics, "gave other figures when asked again; draw from a seeded generator"


def leaves_the_model_alone(given: Given) -> None:
    """Weights, gradients, mode, hooks and random generators are as they were."""
    model = given.model()
    with left_alone(model):
        given(model=model)


def has_knobs_that_change_nothing(given: Given) -> None:
    """A field that carries KNOB cannot change a figure."""
    for change, other in with_other_knobs(given.evaluator):
        made = given(evaluator=other).metrics
        assert made.keys() == given.first.metrics.keys(), f"{change} changes which figures there are, yet carries KNOB"
        for key, value in given.first.metrics.items():
            assert math.isclose(made[key], value, rel_tol=TOLERANCE, abs_tol=TOLERANCE), (
                f"{change} changes {key} from {value} to {made[key]}, yet carries KNOB"
            )


CHECKS: tuple[Check, ...] = (
    *of("evaluator"),
    names_its_benchmark,
    can_be_checked_before_a_run,
    returns_figures,
    returns_figures_of_the_table,
    returns_rows,
    reads_the_model,
    reads_the_rows,
    gives_the_same_figures_twice,
    leaves_the_model_alone,
    has_knobs_that_change_nothing,
)
