"""Membership inference: how well does a score tell rows that were trained on from rows that never were?

Every attack here gives a score that is HIGHER for a likelier member. AUC = P(member's score > non-member's): 1 means
that members stand out, 0.5 that nothing tells them apart (what unlearning should reach), below 0.5 that forgotten rows
are less likely than rows never seen: over-forgetting, which gives a membership away as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from simu.metrics.collect import Figures
from simu.metrics.metric import Metric, Near

if TYPE_CHECKING:
    from torch import Tensor

    from simu.inference.likelihood import TokenScores


Value = TypeVar("Value", float, NDArray[np.float64])

MIN_40 = "min_40"
"""min_k at the k of `privleak`, whatever k `min_k` is asked with."""
_TINY = 1e-10  # open-unlearning's, against a division by 0


def loss(scores: TokenScores) -> float:
    """Mean log-probability of the answer's tokens (Yeom et al. 2018)."""
    return -scores.mean_nll


def zlib_ratio(scores: TokenScores, text: str) -> float:
    """Mean log-probability over the zlib length of the text in bytes (Carlini et al. 2021)."""
    return -scores.mean_nll / len(zlib.compress(text.encode()))


def min_k(scores: TokenScores, k: float, drop_last: bool = False) -> float:
    """Mean of the lowest max(1, ⌊k·N⌋) log-probabilities (Shi et al. 2024, arXiv 2310.16789)."""
    return _mean_of_lowest(scores.log_prob, k, drop_last)


def min_k_plus_plus(scores: TokenScores, k: float, drop_last: bool = False) -> float:
    """As min_k, of (log p - μ) / σ, μ and σ² the mean and variance of log p over the vocabulary under the model, σ² at
    least 1e-6 (Zhang et al. 2024, arXiv 2404.02936; the floor is open-unlearning's)."""
    z = (scores.log_prob - scores.mean_log_prob) / scores.var_log_prob.clamp(min=1e-6).sqrt()
    return _mean_of_lowest(z, k, drop_last)


def likelihood_scores(
    scores: TokenScores, text: str, attacks: Sequence[str], k: float, drop_last: bool = False
) -> dict[str, float]:
    """`mia_<attack>` of the attacks that need this one forward only."""
    measures = {
        "loss": lambda: loss(scores),
        "zlib": lambda: zlib_ratio(scores, text),
        "min_k": lambda: min_k(scores, k, drop_last),
        "min_k_plus_plus": lambda: min_k_plus_plus(scores, k, drop_last),
        MIN_40: lambda: min_k(scores, 0.4, drop_last),
    }
    return {f"mia_{attack}": measures[attack]() for attack in attacks if attack in measures}


def privleak(auc: Value, retain_only: float = 0.5) -> Value:
    """100·((1 − A) − (1 − A_ret)) / ((1 − A_ret) + 1e-10), in per cent, A the AUC of min-40 % and A_ret the retain-only
    model's: 0 where as much leaks as there, below 0 under-, above 0 over-unlearnt (MUSE, arXiv 2407.06460; as
    open-unlearning has it)."""
    return 100 * (retain_only - auc) / (1 - retain_only + _TINY)


def rel_diff(auc: Value, retain_only: float = 0.5) -> Value:
    """100·(A − A_ret) / (A_ret + 1e-10), in per cent, of the same AUCs (open-unlearning)."""
    return 100 * (auc - retain_only) / (retain_only + _TINY)


def add_attacks(
    figures: Figures,
    attacks: Sequence[str],
    members: tuple[str, list[dict[str, float]]],
    nonmembers: tuple[str, list[dict[str, float]]],
) -> None:
    """`mia/<attack>` of every attack that the rows were scored on; members and non-members as (group, row scores)."""
    (group_m, m), (group_n, n) = members, nonmembers
    for name in (f"mia_{attack}" for attack in attacks if f"mia_{attack}" in m[0]):
        figures.auc(f"mia/{name[4:]}", (group_m, [s[name] for s in m]), (group_n, [s[name] for s in n]))
    figures.metrics["mia/n_members"], figures.metrics["mia/n_nonmembers"] = len(m), len(n)


def soul_groups(forget: Sequence[float], others: Sequence[float]) -> tuple[list[float], list[float]]:
    """Positives and negatives of SOUL's MIA number, its label order included (src/metrics/Tofu.py, MIA).

    `forget` and `others` (real authors, then world facts) are min-k scores as above. SOUL predicts with their negation
    over [forget, others], against labels made in the other order: len(others) zeros, then len(forget) ones. So the
    first len(others) rows of [forget, others] are the negatives and the rest the positives.
    """
    predictions = [-score for score in (*forget, *others)]
    return predictions[len(others) :], predictions[: len(others)]


def _mean_of_lowest(values: Tensor, k: float, drop_last: bool) -> float:
    kept = values[:-1] if drop_last else values
    if not len(kept):
        return 0.0  # open-unlearning's score of an answer that is EOS alone
    count = max(1, int(len(kept) * k))
    return float(kept.double().sort().values[:count].mean())


def _attack(name: str, label: str, source: str) -> Metric:
    """The AUC of an attack. Best is 0.5: an attack that is always wrong tells members apart as well as one that is
    always right."""
    return Metric(
        key=f"mia/{name}",
        label=label,
        span="MIA AUC",
        words=f"membership AUC, {label}",
        better={"membership": Near(value=0.5)},
        bounds=(0, 1),
        aggregate="auc",
        chance=0.5,
        source=source,
    )


METRICS = (
    _attack("loss", "loss", "Yeom et al. 2018 (arXiv 1709.01604)"),
    _attack("zlib", "zlib", "Carlini et al. 2021 (arXiv 2012.07805)"),
    _attack("min_k", "min-k", "Shi et al. 2024 (arXiv 2310.16789)"),
    _attack("min_k_plus_plus", "min-k++", "Zhang et al. 2024 (arXiv 2404.02936)"),
    _attack(MIN_40, "min-40 %", "Shi et al. 2024 (arXiv 2310.16789), k = 0.4 as MUSE and open-unlearning have it"),
    _attack("reference", "reference", "Carlini et al. 2021 (arXiv 2012.07805)"),
    _attack("grad_norm", "grad norm", "Wang et al. (arXiv 2402.17012); open-unlearning"),
    _attack("soul_compat", "SOUL order", "SOUL, src/metrics/Tofu.py, its label order included"),
    *(
        Metric(
            key=key,
            label=label,
            span="MIA",
            better={"whole": Near(value=0.0)},
            bounds=(-100 - 1e-6, float("inf")),
            aggregate="combined",
            chance=0.0,
            source=source,
        )
        for key, label, source in (
            ("privleak", "PrivLeak, %", "MUSE (arXiv 2407.06460); open-unlearning"),
            ("rel_diff", "AUC against retain-only, %", "open-unlearning"),
        )
    ),
    Metric(
        key="tpr_at_1_fpr",
        label="TPR at 1 % FPR",
        span="MIA",
        better={"membership": "lower"},
        bounds=(0, 1),
        aggregate="whole",
        chance=0.01,
        source="Carlini et al. 2022 (arXiv 2112.03570)",
    ),
)
