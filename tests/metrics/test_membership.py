import math
import zlib

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from simu.inference.likelihood import TokenScores, token_scores
from simu.metrics import membership as mia


@pytest.fixture
def logits():
    return torch.randn(11, 17, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def target():
    return torch.randint(17, (11,), generator=torch.Generator().manual_seed(1))


def test_attacks_against_their_formulas_on_the_whole_distribution(logits, target):
    scores = token_scores(logits, target)
    p = np.exp(logits.double().numpy())
    p /= p.sum(axis=1, keepdims=True)
    of_label = np.log(p[np.arange(11), target.numpy()])
    mu = (p * np.log(p)).sum(axis=1)
    sigma = np.sqrt((p * np.log(p) ** 2).sum(axis=1) - mu**2)
    z = (of_label - mu) / sigma
    text = "some text, some text"
    assert mia.loss(scores) == pytest.approx(of_label.mean(), rel=1e-5)
    assert mia.zlib_ratio(scores, text) == pytest.approx(of_label.mean() / len(zlib.compress(text.encode())), rel=1e-5)
    for k, count in ((0.2, 2), (0.4, 4), (0.01, 1), (1.0, 11)):
        assert mia.min_k(scores, k) == pytest.approx(np.sort(of_label)[:count].mean(), rel=1e-5)
        assert mia.min_k_plus_plus(scores, k) == pytest.approx(np.sort(z)[:count].mean(), rel=1e-4)
    # open-unlearning leaves the last token out: ten are left
    assert mia.min_k(scores, 0.4, drop_last=True) == pytest.approx(np.sort(of_label[:10])[:4].mean(), rel=1e-5)
    assert mia.min_k_plus_plus(scores, 0.3, drop_last=True) == pytest.approx(np.sort(z[:10])[:3].mean(), rel=1e-4)


def test_an_answer_of_eos_alone_scores_zero_in_open_unlearnings_way(logits, target):
    alone = token_scores(logits[:1], target[:1])
    assert mia.min_k(alone, 0.2, drop_last=True) == 0.0
    assert mia.min_k(alone, 0.2) == pytest.approx(float(alone.log_prob[0]))


def test_a_certain_token_has_a_finite_score():
    certain = torch.full((2, 5), -200.0)
    certain[:, 3] = 200.0
    scores = token_scores(certain, torch.tensor([3, 3]))
    assert mia.min_k_plus_plus(scores, 0.5) == 0.0
    assert math.isfinite(mia.min_k_plus_plus(token_scores(certain, torch.tensor([0, 3])), 0.5))


def test_only_listed_attacks_are_scored(logits, target):
    assert list(mia.likelihood_scores(token_scores(logits, target), "t", ("zlib", "reference", "loss"), 0.2)) == [
        "mia_zlib",
        "mia_loss",
    ]


def literal_soul(forget: list[float], others: list[float]) -> float:
    """The label order of SOUL's MIA: predictions over forget then others, labels of others then forget."""
    predictions = [-score for score in forget] + [-score for score in others]
    return roc_auc_score([0] * len(others) + [1] * len(forget), predictions)


@pytest.mark.parametrize(("n_forget", "n_others"), [(40, 21), (7, 12), (9, 9)])
def test_soul_groups_give_souls_number(n_forget, n_others):
    rng = np.random.default_rng(n_forget)
    forget, others = rng.normal(size=n_forget).tolist(), rng.normal(1, 1, size=n_others).tolist()
    positive, negative = mia.soul_groups(forget, others)
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert np.mean(wins) == pytest.approx(literal_soul(forget, others))


def test_souls_order_puts_a_perfect_attack_near_what_the_paper_prints():
    """Where every forget row is likelier than every other, the true AUC is 1; SOUL's order counts 217 of the 400 as
    negatives, so the 217 others win and the remaining 183 draw: 0.77. Where none is, 0.23. (Printed: 0.19–0.24 and
    0.76–0.79.)"""
    assert literal_soul([1.0] * 400, [0.0] * 217) == pytest.approx((217 + 183 / 2) / 400)
    assert literal_soul([0.0] * 400, [1.0] * 217) == pytest.approx(183 / 2 / 400)


@pytest.mark.parametrize(
    ("auc", "retain_only", "leak", "difference"),
    [
        (0.5, 0.5, 0.0, 0.0),
        (1.0, 0.5, -100.0, 100.0),  # ((1 − 1) − 0.5) / 0.5 and (1 − 0.5) / 0.5
        (0.0, 0.5, 100.0, -100.0),
        (0.7, 0.4, -50.0, 75.0),  # (0.3 − 0.6) / 0.6 and 0.3 / 0.4
        (0.4, 0.4, 0.0, 0.0),
    ],
)
def test_privleak_and_rel_diff_by_hand(auc, retain_only, leak, difference):
    assert mia.privleak(auc, retain_only) == pytest.approx(leak, abs=1e-6)
    assert mia.rel_diff(auc, retain_only) == pytest.approx(difference, abs=1e-6)


def test_min_40_reads_two_fifths_whatever_k_is():
    logs = [-1.0, -5.0, -2.0, -4.0, -3.0]  # ⌊0.4 · 5⌋ = 2 lowest; without the last ⌊0.4 · 4⌋ = 1
    log_prob = torch.tensor(logs)
    zeros, hit = torch.zeros(5), torch.ones(5, dtype=torch.bool)
    scores = TokenScores(log_prob=log_prob, mean_log_prob=zeros, var_log_prob=zeros, hit=hit)
    for k in (0.2, 1.0):
        assert mia.likelihood_scores(scores, "a", ("min_40",), k) == {"mia_min_40": -4.5}
    assert mia.likelihood_scores(scores, "a", ("min_40",), 0.2, drop_last=True) == {"mia_min_40": -5.0}
