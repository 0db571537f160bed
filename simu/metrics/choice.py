"""choice_accuracy: which of several answers is a generation nearest to? (SOUL's "accuracy", src/metrics/Tofu.py)"""

from __future__ import annotations

from collections.abc import Sequence

from simu.metrics.metric import Metric
from simu.metrics.text import Tokenizer, rouge_l_f1


def choice_point(similarities: Sequence[float], shared: bool = True) -> float:
    """1 where the first candidate is the nearest. A tie of c candidates gives 1/c: what drawing among them would give.

    Without `shared`, a tie counts as right, as SOUL has it (`max(scores) == scores[0]`).
    """
    best = max(similarities)
    if similarities[0] < best:
        return 0.0
    return 1 / sum(s == best for s in similarities) if shared else 1.0


def rouge_similarities(
    generated: list[str], candidates: list[tuple[str, ...]], tokenizer: Tokenizer = "rouge_score"
) -> list[list[float]]:
    """ROUGE-L F1 between generation and candidate: offline, no other model."""
    return [[rouge_l_f1(c, g, tokenizer) for c in options] for g, options in zip(generated, candidates, strict=True)]


METRICS = (
    Metric(
        key="choice_accuracy",
        label="EM (choice)",
        words="choice accuracy",
        better={"forget": "lower", "retain": "higher"},
        bounds=(0, 1),
        aggregate="mean",
        chance=1 / 6,  # five perturbed answers beside the right one, as TOFU has
        source="SOUL, src/metrics/Tofu.py",
    ),
)
