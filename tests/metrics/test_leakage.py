"""leak@k and the expected worst of k, against every subset and against binomials."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import pytest

from simu.metrics.leakage import expected_max, leak_at_k


def test_by_hand():
    assert leak_at_k(4, 1, 2) == pytest.approx(1 / 2)  # 3 of the 6 pairs hold the one
    assert leak_at_k(5, 2, 3) == pytest.approx(1 - 1 / 10)
    assert leak_at_k(5, 0, 5) == 0.0
    assert leak_at_k(5, 3, 3) == 1.0
    assert expected_max([0.0, 1.0, 0.5], 2) == pytest.approx((1 + 1 + 0.5) / 3)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_against_every_subset(n):
    scores = [((i * 37) % 11) / 10 for i in range(n)]
    for k in range(1, n + 1):
        drawn = list(combinations(scores, k))
        assert expected_max(scores, k) == pytest.approx(sum(map(max, drawn)) / len(drawn))
        for c in range(n + 1):
            hits = [any(i < c for i in some) for some in combinations(range(n), k)]
            assert leak_at_k(n, c, k) == pytest.approx(sum(hits) / len(hits))


def test_against_binomials_where_they_are_large():
    for c, k in ((1, 128), (7, 64), (199, 1), (20, 180)):
        exact = 1 - Fraction(math.comb(200 - c, k), math.comb(200, k))
        assert leak_at_k(200, c, k) == pytest.approx(float(exact), rel=1e-12)
    scores = [math.sin(i) for i in range(200)]
    exact = sum(Fraction(s) * Fraction(math.comb(j, 63), math.comb(200, 64)) for j, s in enumerate(sorted(scores)))
    assert expected_max(scores, 64) == pytest.approx(float(exact), rel=1e-10)


def test_ends():
    scores = [0.3, 0.9, 0.1, 0.4]
    assert expected_max(scores, 1) == pytest.approx(sum(scores) / 4)
    assert expected_max(scores, 4) == 0.9
    assert leak_at_k(10, 3, 1) == pytest.approx(0.3)
    assert scores == [0.3, 0.9, 0.1, 0.4]


@pytest.mark.parametrize("k", [0, 5, -1])
def test_more_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match="allowed is 1 to n=4"):
        leak_at_k(4, 1, k)
    with pytest.raises(ValueError, match="allowed is 1 to n=4"):
        expected_max([1.0] * 4, k)
    with pytest.raises(ValueError, match="c=5"):
        leak_at_k(4, 5, 1)
