"""Rows under evaluation: what was asked, what came back, what it scored; and rows of another model to compare with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from simu.data.encoding import Shots
from simu.inference.engine import Pair
from simu.inference.generate import Generation
from simu.inference.likelihood import TokenScores
from simu.metrics.collect import Figures
from simu.metrics.evidence import TextEvidence, TokenEvidence, row_scores
from simu.metrics.metric import Metric
from simu.metrics.text import Tokenizer
from simu.types import Evaluation, Example, Splits, UserError

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Row:
    example: Example
    split: str
    generated: str | None = None
    """None where nothing was generated (holdout rows)."""
    extra: dict[str, object] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    question: bool = True
    """False: its prompt is the beginning of a text (LUME)."""
    short: bool = False
    """Whether its answer is a few words (world facts, real authors)."""

    @property
    def is_document(self) -> bool:
        """Whether there is no question to it: nothing is generated, and its likelihood alone is scored."""
        return not self.example.prompt

    asked: str | None = None
    """Another question than the example's, with the same answer."""
    shots: Shots = ()
    """Questions with their answers that stand before its own."""

    @property
    def prompt(self) -> str:
        return self.example.prompt if self.asked is None else self.asked

    @property
    def pair(self) -> Pair:
        """As the row is asked."""
        return Pair(self.prompt, self.example.answer, self.example.id, self.shots)

    @property
    def taught(self) -> Pair:
        """As a model is taught it: the example's own question, and nothing before it."""
        return Pair(self.example.prompt, self.example.answer, self.example.id)

    def record(self) -> dict[str, object]:
        """The row's line in generations.jsonl."""
        e = self.example
        return {
            "id": e.id,
            "split": self.split,
            **({"group": e.group} if e.group else {}),
            "prompt": self.prompt,
            "answer": e.answer,
            "generated": self.generated,
            **self.extra,
            "scores": self.scores,
        }


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The metric table's row metrics, as one benchmark asks for them."""

    metrics: Sequence[Metric]
    benchmark: str
    compat: str = "none"
    tokenizer: Tokenizer = "rouge_score"
    """Of ROUGE."""

    def text(self, row: Row, generation: Generation, partial: bool = False) -> None:
        """Put into `row.scores` what its generated text scores. `partial`: see `simu.metrics.evidence.row_scores`."""
        evidence = TextEvidence(generation=generation, **self._common(row))
        row.scores |= row_scores(self.metrics, "text", evidence, partial=partial)

    def tokens(self, row: Row, scores: TokenScores) -> None:
        """Put into `row.scores` what its answer's likelihood scores, and how many tokens that is."""
        row.scores |= row_scores(self.metrics, "tokens", TokenEvidence(scores=scores, **self._common(row)))
        row.scores["n_tokens"] = len(scores)

    def _common(self, row: Row) -> dict[str, Any]:
        of_row = {"split": row.split, "example": row.example, "question": row.question, "short": row.short}
        return {"benchmark": self.benchmark, "compat": self.compat, "tokenizer": self.tokenizer, **of_row}


def rows_of(
    splits: Splits,
    names: Sequence[str],
    *,
    is_question: Callable[[Example], bool] = lambda _: True,
    short: Collection[str] = (),
) -> list[Row]:
    """The evaluation rows of the named splits, in that order; a split that the data lack has none.

    `short`: splits whose answers are a few words.
    """
    found = [(name, e) for name in names for e in splits.evaluation.get(name, ())]
    return [Row(example=e, split=name, question=is_question(e), short=name in short) for name, e in found]


def add_means(figures: Figures, group: str, rows: Sequence[Row], leave: Collection[str] = ()) -> None:
    """`group/n`, and `group/<score>`: the mean of every score over the rows that have it, scores in `leave` and
    membership scores excepted. A score that some rows lack says so in `group/<score>/n`."""
    figures.metrics[f"{group}/n"] = len(rows)
    for name in dict.fromkeys(n for row in rows for n in row.scores):
        if name in leave or name.startswith("mia_"):
            continue
        values = [row.scores[name] for row in rows if name in row.scores]
        figures.mean(f"{group}/{name}", group, values)
        if len(values) != len(rows):
            figures.metrics[f"{group}/{name}/n"] = len(values)
            log.warning("%s/%s: only %d of %d rows can be scored", group, name, len(values), len(rows))


def reference_scores(reference: object, split: str, name: str, rows: Iterable[Row]) -> list[float]:
    """Another model's score `name` for each of these rows of a split.

    `reference`: an Evaluation, a mapping with "rows", or the rows of a generations.jsonl. Raises UserError where a row
    or the score is missing.
    """
    theirs = reference.rows if isinstance(reference, Evaluation) else reference
    if isinstance(theirs, Mapping):
        theirs = theirs.get("rows")
    if not isinstance(theirs, Sequence):
        raise UserError("the reference evaluation has no rows; allowed is an evaluation of the reference model")
    scores = {row["id"]: row["scores"] for row in theirs if row["split"] == split}
    found = []
    for row in rows:
        score = scores.get(row.example.id, {}).get(name)
        if score is None:
            raise UserError(
                f"the reference evaluation has no {name} for row {row.example.id} of {split}: evaluate the "
                "reference model on the same data with the same evaluator"
            )
        found.append(float(score))
    return found


def all_there(figures: Figures, name: str, parts: Sequence[str]) -> bool:
    """Whether the metric `name` can be made of these parts; `figures.left_out` says which are not there."""
    missing = [part for part in parts if part not in figures.metrics]
    if missing:
        figures.left_out.append(f"{name}: left out, there is no {', '.join(missing)}")
    return not missing
