"""Figures made of other figures: the paper's aggregate, TOFU's model utility, SemEval-2025 Task 4's scores."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hmean

from simu.metrics.metric import Metric

Floats = NDArray[np.float64]
Value = TypeVar("Value", float, NDArray[np.float64])

SEMEVAL = "SemEval-2025 Task 4 (arXiv 2504.02883)"


def harmonic_mean(values: ArrayLike) -> Floats:
    """Harmonic mean over the first axis of values ≥ 0; any 0 gives 0."""
    return np.asarray(hmean(np.asarray(values, dtype=np.float64), axis=0), dtype=np.float64)


def paper_aggregate(forget_em: Value, forget_rouge: Value, mia: Value, retain_em: Value, retain_rouge: Value) -> Value:
    """mean(1 - EM_f, 1 - ROUGE_f, 1 - MIA, EM_r, ROUGE_r): the first column of the paper's Table 1, in [0, 1]."""
    return (1 - forget_em + 1 - forget_rouge + 1 - mia + retain_em + retain_rouge) / 5


def two_sided(auc: Value) -> Value:
    """max(AUC, 1 - AUC): membership that an attacker who may flip the score's sign can tell, in [0.5, 1]."""
    return 0.5 + abs(auc - 0.5)


def fair_aggregate(
    forget_em: Value,
    forget_rouge: Value,
    mia: Value,
    retain_em: Value,
    retain_rouge: Value,
    repetition: Value,
    empty: Value,
) -> Value:
    """Mean of six, in [0, 1]: the paper's five, membership as `mia_final` (1 at an AUC of 0.5, 0 at 0 and at 1), and
    fluency of the forget generations, (1 - repetition rate) · (1 - share of empty ones)."""
    fluency = (1 - repetition) * (1 - empty)
    return (1 - forget_em + 1 - forget_rouge + mia_final(mia) + retain_em + retain_rouge + fluency) / 6


def task_aggregate(terms: list[Floats]) -> Floats:
    """Harmonic mean of as many forget figures (as 1 - x) as retain ones, in this order."""
    half = len(terms) // 2
    return harmonic_mean([*(1 - value for value in terms[:half]), *terms[half:]])


def mia_final(auc: Value) -> Value:
    """1 - 2·|AUC - 0.5|: 1 where membership cannot be told, 0 where it can without error."""
    return 2 - 2 * two_sided(auc)


def _whole(key: str, label: str, span: str, source: str, chance: float | None = None) -> Metric:
    """A figure of the whole run in [0, 1], the higher the better."""
    return Metric(
        key=key,
        label=label,
        span=span,
        better={"whole": "higher"},
        bounds=(0, 1),
        aggregate="combined",
        chance=chance,
        source=source,
    )


METRICS = (
    _whole("aggregate", "Aggregate", "", "arXiv 2510.07822, Table 1: mean of five"),
    _whole("aggregate_fair", "Fair aggregate", "", "docs/evaluation.md: the paper's five, MIA two-sided, and fluency"),
    _whole("model_utility", "Model utility", "TOFU", "TOFU (arXiv 2401.06121): harmonic mean of nine"),
    _whole("task_aggregate", "Task aggregate", "SemEval", f"{SEMEVAL}: harmonic mean of twelve"),
    _whole("mia_final", "MIA final", "SemEval", SEMEVAL),
    _whole("mmlu", "MMLU", "SemEval", "Hendrycks et al. (arXiv 2009.03300)", chance=0.25),
    _whole("official_final", "Final", "SemEval", f"{SEMEVAL}: mean of task aggregate, MMLU and MIA final"),
)
