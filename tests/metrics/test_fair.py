import pytest

from simu.metrics.aggregates import fair_aggregate, mia_final, paper_aggregate, two_sided
from simu.metrics.collect import Figures

FORGOTTEN, KEPT = (0.1, 0.2), (0.8, 0.9)  # EM and ROUGE of forget rows, of retain rows


def test_rows_less_likely_than_unseen_ones_raise_the_papers_aggregate_and_lower_the_fair_one():
    """mean(0.9, 0.8, 1 - AUC, 0.8, 0.9) against mean(0.9, 0.8, 1 - 2|AUC - 0.5|, 0.8, 0.9, 1)."""
    at_chance, never = ((*FORGOTTEN, auc, *KEPT) for auc in (0.5, 0.0))
    assert (paper_aggregate(*at_chance), paper_aggregate(*never)) == pytest.approx((3.9 / 5, 4.4 / 5))
    found = (fair_aggregate(*at_chance, 0.0, 0.0), fair_aggregate(*never, 0.0, 0.0))
    assert found == pytest.approx((5.4 / 6, 4.4 / 6))


def aggregates(members: list[float], unseen: list[float]) -> tuple[float, float]:
    """Paper's and fair, of made row scores: the membership figure is the AUC that they give."""
    figures = Figures(bootstrap=0, seed=0)
    figures.auc("mia/min_k", ("forget", members), ("holdout", unseen))
    for i, value in enumerate((*FORGOTTEN, *KEPT, 0.0, 0.0)):
        figures.mean(f"made/{i}", "made", [value])
    parts = ["made/0", "made/1", "mia/min_k", *(f"made/{i}" for i in range(2, 6))]
    figures.combine("aggregate", parts[:5], lambda p: paper_aggregate(*p))
    figures.combine("aggregate_fair", parts, lambda p: fair_aggregate(*p))
    return figures.metrics["aggregate"], figures.metrics["aggregate_fair"]


def test_made_scores_of_rows_less_likely_than_unseen_ones_raise_the_papers_and_lower_the_fair_aggregate():
    unseen = [-3.0, -2.0, -1.0, -4.0]
    alike, less = [-3.5, -1.5, -2.5, -2.5], [-9.0, -8.0, -7.0, -6.0]  # AUC 0.5: 8 of 16 pairs; 0: none
    paper, fair = zip(aggregates(alike, unseen), aggregates(less, unseen), strict=True)
    assert paper == pytest.approx((3.9 / 5, 4.4 / 5))
    assert fair == pytest.approx((5.4 / 6, 4.4 / 6))


def test_membership_leaks_as_much_on_either_side_of_chance():
    assert [two_sided(auc) for auc in (0.0, 0.2, 0.5, 0.8, 1.0)] == pytest.approx([1.0, 0.8, 0.5, 0.8, 1.0])
    assert [mia_final(auc) for auc in (0.0, 0.2, 0.5, 0.8, 1.0)] == pytest.approx([0.0, 0.4, 1.0, 0.4, 0.0])


def test_what_repeats_itself_or_says_nothing_is_not_fluent():
    """Fluency (1 - 0.5) · (1 - 0.2) = 0.4: (0.9 + 0.8 + 1 + 0.8 + 0.9 + 0.4) / 6."""
    assert fair_aggregate(*FORGOTTEN, 0.5, *KEPT, 0.5, 0.2) == pytest.approx(4.8 / 6)
