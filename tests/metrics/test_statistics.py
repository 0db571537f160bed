import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from simu.metrics import statistics as st
from simu.metrics.collect import Figures

RNG = np.random.default_rng(7)


def test_resample_counts_are_draws_with_replacement():
    counts = st.resample_counts(5, 4000, st.stream(0))
    assert counts.shape == (4000, 5)
    assert (counts.sum(axis=1) == 5).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.06)
    np.testing.assert_allclose(counts.var(axis=0), 0.8, atol=0.08)  # binomial(5, 1/5)


def test_streams_are_repeatable_and_apart():
    assert (st.stream(3, "a").integers(1000, size=9) == st.stream(3, "a").integers(1000, size=9)).all()
    assert (st.stream(3, "a").integers(1000, size=9) != st.stream(3, "b").integers(1000, size=9)).any()
    assert (st.stream(4, "a").integers(1000, size=9) != st.stream(3, "a").integers(1000, size=9)).any()


def bounds(figures: Figures, key: str) -> tuple[float, float]:
    return figures.metrics[f"{key}/ci_low"], figures.metrics[f"{key}/ci_high"]


def mean_bounds(values, resamples=1000) -> tuple[float, float]:
    figures = Figures(bootstrap=resamples, seed=1)
    figures.mean("m", "rows", values)
    return bounds(figures, "m")


def test_mean_interval_agrees_with_scipys_bootstrap():
    values = RNG.exponential(size=80)
    found = mean_bounds(values, 20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    np.testing.assert_allclose(found, (theirs.low, theirs.high), atol=0.02)
    assert mean_bounds(values) == mean_bounds(values)


def test_interval_of_a_constant_is_the_constant():
    assert mean_bounds([0.25] * 30) == (0.25, 0.25)


def test_bootstrap_means_of_several_metrics_share_the_resamples():
    values = RNG.normal(size=(6, 2))
    counts = st.resample_counts(6, 3, st.stream(0))
    rows = [np.repeat(values, c.astype(int), axis=0).mean(axis=0) for c in counts]
    np.testing.assert_allclose(st.bootstrap_means(values, counts), rows)


def pairwise_auc(m, n) -> float:
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in m for b in n]))


def test_auc_is_the_share_of_pairs_won():
    m, n = [3.0, 1.0, 2.0, 2.0], [1.0, 0.0, 2.0]
    assert st.auc(m, n) == pytest.approx(pairwise_auc(m, n)) == pytest.approx(9.5 / 12)
    assert st.auc([1, 1], [1, 1, 1]) == 0.5


def test_bootstrap_auc_equals_the_auc_of_the_drawn_rows():
    m, n = RNG.normal(1, 1, 12).round(1), RNG.normal(0, 1, 9).round(1)
    cm, cn = st.resample_counts(12, 5, st.stream(0)), st.resample_counts(9, 5, st.stream(1))
    for found, a, b in zip(st.bootstrap_auc(m, n, cm, cn), cm.astype(int), cn.astype(int), strict=True):
        drawn_m, drawn_n = np.repeat(m, a), np.repeat(n, b)
        expected = roc_auc_score(np.r_[np.ones(12), np.zeros(9)], np.r_[drawn_m, drawn_n])
        assert found == pytest.approx(expected)


def test_auc_interval_holds_the_auc_and_narrows_with_rows():
    figures = Figures(bootstrap=1000, seed=0)
    for n in (30, 600):
        figures.auc(f"{n}", (f"in {n}", RNG.normal(1, 1, n)), (f"out {n}", RNG.normal(0, 1, n)))
    wide, narrow = bounds(figures, "30"), bounds(figures, "600")
    true = stats.norm.cdf(1 / np.sqrt(2))
    assert wide[0] < true < wide[1]
    assert narrow[0] < true < narrow[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2


def test_tpr_at_fpr_by_hand():
    nonmembers = np.arange(100) / 100  # one of a hundred may be wrong: the threshold stands just above 0.98
    members = [0.5, 0.985, 0.99, 2.0]
    assert st.tpr_at_fpr(members, nonmembers) == 0.75  # 0.985, 0.99 and 2.0 with 0.99 alone wrong
    assert st.tpr_at_fpr([0.1], [0.5, 0.6]) == 0.0
    assert st.tpr_at_fpr([0.7, 0.5], [0.5, 0.6]) == 0.5


def exact_sign_flip(d) -> float:
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=len(d))]
    return float(np.mean(np.array(sums) >= abs(np.sum(d)) - 1e-9))


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.5])
def test_paired_p_value_agrees_with_every_sign_flip(shift):
    rng = np.random.default_rng(3)
    b = rng.normal(size=11)
    a = b + rng.normal(shift, 1, size=11)
    found = st.paired_difference(a, b, resamples=20_000)
    assert found.mean == pytest.approx((a - b).mean())
    assert found.ci_low < found.mean < found.ci_high
    assert found.p_value == pytest.approx(exact_sign_flip(a - b), abs=0.012)
    assert found.n == 11


WILSON_20 = 3.841459 / (20 + 3.841459)
"""Upper end for 0 of 20 by hand: z² / (n + z²), z = 1.959964."""


def test_wilson_at_the_ends_and_between_by_hand():
    assert st.wilson(0, 20) == pytest.approx((0, WILSON_20), abs=1e-6)
    assert st.wilson(20, 20) == pytest.approx((1 - WILSON_20, 1), abs=1e-6)
    # 3 of 20: (0.15 + z²/40 ± z·√(0.15·0.85/20 + z²/1600)) / (1 + z²/20) = (0.246036 ± 0.183609) / 1.192073
    assert st.wilson(3, 20) == pytest.approx((0.052369, 0.360419), abs=1e-5)
    assert st.wilson_at_end(0.5, 20) is None


@pytest.mark.parametrize(("score", "low", "high"), [(0.0, 0.0, WILSON_20), (1.0, 1 - WILSON_20, 1.0)])
@pytest.mark.parametrize("key", ["forget/exact_match", "retain/rouge_l_recall", "original/forget/Task1/knowledge"])
def test_a_share_of_none_or_all_has_wilsons_interval(key, score, low, high):
    figures = Figures(bootstrap=50, seed=0)
    figures.mean(key, "rows", [score] * 20)
    assert bounds(figures, key) == pytest.approx((low, high), abs=1e-6)
    figures = Figures(bootstrap=0, seed=0)
    figures.mean(key, "rows", [score] * 20)
    assert set(figures.metrics) == {key}  # no interval was asked for


def test_counts_and_unknown_scores_that_are_all_nought_have_no_share_to_speak_of():
    figures = Figures(bootstrap=50, seed=0)
    for key in ("forget/generated_tokens", "forget/mine"):
        figures.mean(key, "rows", [0.0] * 20)
        assert bounds(figures, key) == (0, 0)


def test_a_perfect_attack_is_as_sure_as_its_smaller_group():
    figures = Figures(bootstrap=50, seed=0)
    figures.auc("mia/loss", ("members", [2.0] * 20), ("others", [1.0] * 40))
    assert bounds(figures, "mia/loss") == pytest.approx((1 - WILSON_20, 1), abs=1e-6)


def test_a_combination_of_such_figures_alone_has_the_range_over_their_intervals():
    figures = Figures(bootstrap=50, seed=0)
    figures.mean("forget/exact_match", "a", [0.0] * 20)
    figures.mean("retain/exact_match", "b", [1.0] * 20)
    parts = ["forget/exact_match", "retain/exact_match"]
    figures.combine("aggregate", parts, lambda p: (1 - p[0] + p[1]) / 2)
    assert bounds(figures, "aggregate") == pytest.approx((1 - WILSON_20, 1), abs=1e-6)
    figures.mean("retain/rouge_l_recall", "b", [0.0, 1.0] * 10)  # one part with spread: resamples, as ever
    figures.combine("mine", ["forget/exact_match", "retain/rouge_l_recall"], lambda p: p[0] + p[1])
    assert bounds(figures, "mine") == bounds(figures, "retain/rouge_l_recall")


def test_rows_that_all_differ_alike_leave_what_wilson_lets_through():
    found = st.paired_difference([0.0, 1.0] * 10, [0.0, 1.0] * 10)
    assert (found.mean, found.p_value) == (0, 1)
    assert (found.ci_low, found.ci_high) == pytest.approx((-WILSON_20, WILSON_20), abs=1e-6)
    found = st.paired_difference(np.ones(20), np.zeros(20))
    assert (found.ci_low, found.ci_high) == pytest.approx((1 - 2 * WILSON_20, 1), abs=1e-6)
    unbounded = st.paired_difference([3.0] * 20, [3.0] * 20)
    assert (unbounded.mean, unbounded.ci_low, unbounded.ci_high) == (0, 0, 0)


def test_paired_difference_of_a_plain_gain_is_sure_and_never_zero():
    found = st.paired_difference(np.ones(40), np.zeros(40), resamples=999)
    assert found.p_value == pytest.approx(1 / 1000)


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1]), ([], [])])
def test_paired_difference_refuses_what_is_not_paired(a, b):
    with pytest.raises(ValueError, match="equally long"):
        st.paired_difference(a, b)


def test_paired_scores_takes_the_common_rows_in_order():
    def rows(**scores):
        return [{"id": i, "split": "forget", "scores": {"em": s}} for i, s in scores.items()]

    a = rows(x=1.0, y=0.0, z=0.5)
    b = [{"id": "x", "split": "retain", "scores": {"em": 9.0}}, *rows(z=0.25, y=1.0)]
    assert st.paired_scores(a, b, "forget", "em") == ([0.0, 0.5], [1.0, 0.25])
    assert st.paired_scores(a, b, "forget", "rouge") == ([], [])
