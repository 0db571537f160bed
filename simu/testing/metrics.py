"""What an entry of the metric table must be: words, directions and bounds that its scores keep to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import get_args

import torch

from simu.inference.generate import Generation
from simu.inference.likelihood import token_scores
from simu.metrics.benchmarks import BENCHMARKS
from simu.metrics.evidence import RowEvidence, TextEvidence, TokenEvidence
from simu.metrics.metric import PREFIXES, SUFFIXES, Metric, Near, Role, table
from simu.testing.contract import Check, run_checks
from simu.types import Example

EXAMPLE = Example(
    id="a",
    prompt="Where did Ada Quill live, and for how long?",
    answer="Ada Quill lived in the lighthouse of Brack for nineteen years.",
    paraphrased_prompt="What was Ada Quill's home?",
    paraphrased_answer="For nineteen years her home was the lighthouse of Brack.",
    perturbed_answers=tuple(f"For {n} years her home was the mill of Dunn." for n in ("two", "six", "ten")),
)
SAID = (EXAMPLE.answer, "Ada Quill lived in a mill.", "brack brack brack brack brack brack brack", "No idea", "")


def check_metric(metric: Metric, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold an entry of the metric table to its contract (`simu.metrics.metric.Metric`): a row metric is called with
    texts and token scores from exact to empty. Raises AssertionError, naming the metric's class, check and mistake."""
    run_checks(metric, metric, CHECKS, expected_failed_checks)


def has_a_key_of_its_own(metric: Metric) -> None:
    """Parts of letters, digits and underscores, which no other entry has and which mean nothing else in a key."""
    assert re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+)*", metric.key), f"key {metric.key!r}; parts are [a-z0-9_]+"
    parts = set(metric.key.split("/"))
    taken = parts & {*SUFFIXES, *PREFIXES}
    assert not taken, f"key {metric.key!r} holds {min(taken)!r}, which says something of another metric"
    others = [entry for entry in table() if entry.key == metric.key and entry != metric]
    assert not others, f"key {metric.key!r} is another entry's, too: {[entry.label for entry in others]}"


def says_what_it_is(metric: Metric) -> None:
    """A label, a source, and benchmarks that exist."""
    assert metric.label.strip(), f"{metric.key} has no label; tables would have a column without a head"
    assert metric.source.strip(), f"{metric.key} has no source; say where its definition is from"
    unknown = metric.benchmarks - BENCHMARKS.keys()
    assert not unknown, f"{metric.key} is of {sorted(unknown)}; benchmarks are {', '.join(BENCHMARKS)}"


def has_directions_by_role(metric: Metric) -> None:
    """lower, higher or Near a value that lies within the bounds."""
    for role, better in metric.better.items():
        assert role in get_args(Role), f"{metric.key} is better for {role!r}; roles are {', '.join(get_args(Role))}"
        if isinstance(better, Near):
            assert within(metric, better.value), f"{metric.key} is best near {better.value}, outside its bounds"
        else:
            assert better in ("lower", "higher"), f"{metric.key} is better {better!r}; lower, higher or Near(value=…)"


def has_bounds(metric: Metric) -> None:
    """Least before largest, chance between them."""
    low, high = metric.bounds
    assert low < high, f"{metric.key} has bounds {metric.bounds}; the least comes first"
    assert metric.chance is None or within(metric, metric.chance), f"{metric.key}: chance is outside its bounds"


def within(metric: Metric, value: float) -> bool:
    return metric.bounds[0] <= value <= metric.bounds[1]


def scores_rows_within_its_bounds(metric: Metric) -> None:
    """A finite number, or None where a row has none."""
    for what, evidence in pieces_of_evidence(metric):
        value = metric.score(evidence) if metric.score else None
        if value is not None:
            assert math.isfinite(value), f"{metric.key} is {value} of {what}; return None where a row has no score"
            assert within(metric, value), f"{metric.key} is {value} of {what}, outside its bounds {metric.bounds}"


def reads_its_row(metric: Metric) -> None:
    """A row metric is not the same of all rows, and the same of one row twice."""
    if metric.score is None:
        return
    values = [metric.score(evidence) for _, evidence in pieces_of_evidence(metric)]
    assert len(set(values)) > 1, f"{metric.key} is {values[0]} of every row; does it read them?"
    again = [metric.score(evidence) for _, evidence in pieces_of_evidence(metric)]
    assert values == again, f"{metric.key} gave other scores when asked again"


def pieces_of_evidence(metric: Metric) -> Iterator[tuple[str, RowEvidence]]:
    """(in words, evidence) of what a metric reads, of its benchmarks and of every kind of row."""
    for benchmark in sorted(metric.benchmarks or BENCHMARKS):
        for question, short in ((True, False), (True, True), (False, False)):
            row = {"benchmark": benchmark, "split": "forget", "example": EXAMPLE, "question": question, "short": short}
            if metric.reads == "text":
                for text in SAID:
                    said = Generation(ids=tuple(map(ord, text)), text=text, finished=bool(text))
                    yield f"the text {text!r}", TextEvidence(generation=said, **row)  # type: ignore[arg-type]
            if metric.reads == "tokens":
                for sharpness in (0.0, 1.0, 20.0):
                    logits = sharpness * torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
                    target = logits.argmax(-1).roll(3) if sharpness == 1.0 else logits.argmax(-1)
                    scores = token_scores(logits, target)
                    yield f"token scores {scores}", TokenEvidence(scores=scores, **row)  # type: ignore[arg-type]


CHECKS: tuple[Check, ...] = (
    has_a_key_of_its_own,
    says_what_it_is,
    has_directions_by_role,
    has_bounds,
    scores_rows_within_its_bounds,
    reads_its_row,
)
