"""What a row's likelihoods score. Pure functions of the log-probabilities of an answer's tokens.

N: labelled tokens of an answer (EOS the last of them). Every score and its source: docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import ks_2samp

from simu.metrics.metric import Metric, Near, row_mean

if TYPE_CHECKING:
    from torch import Tensor

    from simu.inference.likelihood import TokenScores


def probability(scores: TokenScores) -> float:
    """exp(-mean CE) in [0, 1]: the geometric mean of the tokens' probabilities (TOFU, arXiv 2401.06121)."""
    return float(np.exp(-scores.mean_nll))


def token_accuracy(scores: TokenScores, drop_last: bool = False) -> float:
    """Share of answer tokens that teacher forcing predicts (open-unlearning's exact_memorization).

    `drop_last` leaves out the last token (EOS), as open-unlearning does. No token left: 0.
    """
    hit = _kept(scores.hit, drop_last)
    return float(hit.double().mean()) if len(hit) else 0.0


def extraction_strength(scores: TokenScores, drop_last: bool = False) -> float:
    """1 - k/N, k the smallest start from which every token is predicted (Carlini et al. 2021; open-unlearning).

    No suffix matches: 0; with `drop_last` (open-unlearning, whose loop ends on the last token): 1/N.
    """
    hit = _kept(scores.hit, drop_last).tolist()
    n = len(hit)
    k = n
    while k and hit[k - 1]:
        k -= 1
    if drop_last and n:
        k = min(k, n - 1)
    return 1 - k / n if n else 0.0


def truth_ratio(paraphrased: TokenScores, perturbed: Sequence[TokenScores]) -> float:
    """R = exp(-mean_j CE_perturbed_j) / (exp(-CE_paraphrased) + 1e-10), in [0, ∞) (open-unlearning)."""
    wrong = np.exp(-np.mean([s.mean_nll for s in perturbed]))
    return float(wrong / (np.exp(-paraphrased.mean_nll) + 1e-10))


def truth_ratio_arithmetic(paraphrased: TokenScores, perturbed: Sequence[TokenScores]) -> float:
    """R = mean_j P(perturbed_j) / (P(paraphrased) + 1e-12): SOUL's."""
    return float(np.mean([probability(s) for s in perturbed]) / (probability(paraphrased) + 1e-12))


def closer_to_one(ratio: float) -> float:
    """min(R, 1/R), in [0, 1]: what a forgotten row should score, true and false being equally likely."""
    return min(ratio, 1 / (ratio + 1e-10))


def true_better(ratio: float) -> float:
    """max(0, 1 - R), in [0, 1]: what a kept row should score, the truth being likelier."""
    return max(0.0, 1 - ratio)


def truth_probability(paraphrased: TokenScores, perturbed: Sequence[TokenScores]) -> float:
    """c / (c + w + 1e-10), c = exp(-CE_paraphrased), w = exp(-mean_j CE_perturbed_j), in [0, 1]: open-unlearning's
    truth ratio under aggregator=prob_mean."""
    right, wrong = probability(paraphrased), np.exp(-np.mean([s.mean_nll for s in perturbed]))
    return float(right / (right + wrong + 1e-10))


def normalised_probability(answer: TokenScores, wrong: Sequence[TokenScores]) -> float:
    """P(answer) / (P(answer) + Σ P(wrong) + 1e-10): real authors and world facts as multiple choice (TOFU)."""
    right = probability(answer)
    return right / (right + sum(probability(s) for s in wrong) + 1e-10)


def forget_quality(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """p-value of the two-sided Kolmogorov–Smirnov test between the truth ratios of two models (TOFU)."""
    return float(ks_2samp(ours, theirs).pvalue)


def _kept(tokens: Tensor, drop_last: bool) -> Tensor:
    return tokens[:-1] if drop_last else tokens


TOFU = "TOFU (arXiv 2401.06121)"

METRICS = (
    row_mean("probability", "Probability", "tokens", lambda e: probability(e.scores), TOFU),
    row_mean(
        "token_accuracy",
        "Token accuracy",
        "tokens",
        lambda e: token_accuracy(e.scores, e.drop_last),
        "open-unlearning's exact_memorization (Tirumala et al., arXiv 2205.10770)",
    ),
    row_mean(
        "extraction_strength",
        "Extraction",
        "tokens",
        lambda e: extraction_strength(e.scores, e.drop_last),
        "Carlini et al. 2021 (arXiv 2012.07805); open-unlearning",
        words="extraction strength",
    ),
    row_mean(
        "mean_nll",
        "NLL",
        "tokens",
        lambda e: e.scores.mean_nll,
        "token mean of −log p, nats",
        better={"forget": "higher", "retain": "lower"},
        bounds=(0, float("inf")),
    ),
    Metric(
        key="probability_normalised",
        label="Probability (options)",
        better={"retain": "higher"},
        bounds=(0, 1),
        aggregate="mean",
        source=TOFU,
    ),
    Metric(
        key="truth_ratio",
        label="Truth ratio",
        better={"forget": "higher", "retain": "higher"},
        bounds=(0, float("inf")),  # at most 1 but under compat=soul, which keeps the ratio itself
        aggregate="mean",
        source=TOFU,
    ),
    Metric(
        key="truth_ratio_prob_mean",
        label="Truth probability",
        better={"forget": Near(value=0.5), "retain": "higher"},
        bounds=(0, 1),
        aggregate="mean",
        chance=0.5,
        source="open-unlearning's truth_ratio, aggregator prob_mean",
    ),
    Metric(
        key="forget_quality",
        label="Forget quality",
        span="TOFU",
        better={"whole": "higher"},
        bounds=(0, 1),
        aggregate="whole",
        source=TOFU,
    ),
)
