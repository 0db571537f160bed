"""What a row metric reads of a row, and the call of all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from simu.types import Example

if TYPE_CHECKING:
    from simu.inference.generate import Generation
    from simu.inference.likelihood import TokenScores
    from simu.metrics.metric import Metric


@dataclass(frozen=True, kw_only=True)
class RowEvidence:
    """What is known of a row under evaluation whatever was asked of the model."""

    benchmark: str
    """'qa', 'lume'."""
    compat: str = "none"
    """Whose definitions are meant where they differ: none, soul or open_unlearning."""
    tokenizer: str = "rouge_score"
    """What ROUGE's words are: see `simu.metrics.text.rouge_tokens`."""
    split: str
    """'forget', 'retain', 'holdout', …"""
    example: Example
    question: bool = True
    """False: the prompt is the beginning of a text, to be completed (LUME)."""
    short: bool = False
    """Whether the answer is a few words that a right generation contains: world facts, real authors."""

    @property
    def answer(self) -> str:
        return self.example.answer


@dataclass(frozen=True, kw_only=True)
class TextEvidence(RowEvidence):
    """For metrics with reads="text": the greedy answer to the row's prompt."""

    generation: Generation


@dataclass(frozen=True, kw_only=True)
class TokenEvidence(RowEvidence):
    """For metrics with reads="tokens": teacher-forced scores of the row's answer."""

    scores: TokenScores

    @property
    def drop_last(self) -> bool:
        """Whether the answer's last token (EOS) is left out, as open-unlearning does."""
        return self.compat == "open_unlearning"


def row_scores(
    metrics: Iterable[Metric], reads: Literal["text", "tokens"], evidence: RowEvidence, *, partial: bool = False
) -> dict[str, float]:
    """Key → score of every metric that reads `reads` and has something to say of this row.

    `partial`: the text was asked for only as far as it may equal its answer; metrics of whole texts are left out.
    """
    found: dict[str, float] = {}
    for metric in metrics:
        if metric.reads != reads or metric.score is None or (partial and not metric.partial):
            continue
        if metric.benchmarks and evidence.benchmark not in metric.benchmarks:
            continue
        if (value := metric.score(evidence)) is not None:
            found[metric.key] = float(value)
    return found
