"""Membership inference: how well does a score tell rows that were trained on from rows that never were?

Every attack here gives a score that is HIGHER for a likelier member. AUC = P(member's score > non-member's): 1 means
that members stand out, 0.5 that nothing tells them apart (what unlearning should reach), below 0.5 that forgotten rows
are less likely than rows never seen: over-forgetting, which gives a membership away as well.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from simu.data.batching import Encoded, collate
from simu.objectives.logprobs import labelled_logits
from simu.progress import track


class TokenScores(Protocol):
    @property
    def log_prob(self) -> Tensor: ...
    @property
    def mean_log_prob(self) -> Tensor: ...
    @property
    def var_log_prob(self) -> Tensor: ...
    @property
    def mean_nll(self) -> float: ...


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


def reference(scores: TokenScores, reference_nll: float) -> float:
    """How much likelier than under a model that never saw the row: NLL_reference - NLL, token means (Carlini 2022)."""
    return reference_nll - scores.mean_nll


def grad_norms(model: nn.Module, rows: list[Encoded], pad_id: int) -> list[float]:
    """Minus the mean over parameters of the 2-norm of ∇ mean CE, row by row (arXiv 2402.17012; open-unlearning's p=2).

    One forward and one backward a row; parameters' gradients and requires_grad are left as they were found.
    """
    device = next(model.parameters()).device
    parameters = list(model.parameters())
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(p.is_floating_point())
    try:
        trained = [p for p in parameters if p.requires_grad]
        return [_grad_norm(model, row, trained, pad_id, device) for row in track(rows, "gradient norms", unit="row")]
    finally:
        for p, flag in zip(parameters, before, strict=True):
            p.requires_grad_(flag)


def _grad_norm(
    model: nn.Module, row: Encoded, parameters: list[nn.Parameter], pad_id: int, device: torch.device
) -> float:
    with torch.enable_grad():
        logits, where = labelled_logits(model, collate([row], pad_id, device))
        ce = nn.functional.cross_entropy(logits.float(), where.target)
        gradients = torch.autograd.grad(ce, parameters, allow_unused=True)
    norms = [g.detach().float().norm() for g in gradients if g is not None]
    return -float(torch.stack(norms).mean())


def auc(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """Area under the ROC curve, members positive: [0, 1], ties one half."""
    m, n = np.asarray(members, dtype=np.float64), np.asarray(nonmembers, dtype=np.float64)
    return float(roc_auc_score(np.r_[np.ones(len(m)), np.zeros(len(n))], np.r_[m, n]))


def tpr_at_fpr(members: ArrayLike, nonmembers: ArrayLike, fpr: float = 0.01) -> float:
    """The largest true-positive rate at a false-positive rate of at most `fpr` (Carlini et al. 2022)."""
    m, n = np.asarray(members, dtype=np.float64), np.asarray(nonmembers, dtype=np.float64)
    false, true, _ = roc_curve(np.r_[np.ones(len(m)), np.zeros(len(n))], np.r_[m, n], drop_intermediate=False)
    return float(true[false <= fpr].max())


def soul_auc(forget: ArrayLike, others: ArrayLike) -> float:
    """SOUL's MIA number, its label order included (src/metrics/Tofu.py, MIA; OPTML-Group/SOUL 30f7a41).

    `forget` and `others` (real authors, then world facts) are min-k scores as above. SOUL predicts with their negation
    over [forget, others], against labels made in the other order: len(others) zeros, then len(forget) ones. So the
    first len(others) forget rows count as negatives and everything else as positive.
    """
    f, o = np.asarray(forget, dtype=np.float64), np.asarray(others, dtype=np.float64)
    return float(roc_auc_score(np.r_[np.zeros(len(o)), np.ones(len(f))], -np.r_[f, o]))


def _mean_of_lowest(values: Tensor, k: float, drop_last: bool) -> float:
    kept = values[:-1] if drop_last else values
    if not len(kept):
        return 0.0  # open-unlearning's score of an answer that is EOS alone
    count = max(1, int(len(kept) * k))
    return float(kept.double().sort().values[:count].mean())
