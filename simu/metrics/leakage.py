"""What leaks in one of many samples: exact expectations over the draw, from samples that were made once.

from simu.metrics.leakage import expected_max, leak_at_k
leak_at_k(200, 3, 8)                  # 200 samples, 3 of them leak: the chance that one of 8 does
expected_max([0.1, 0.9, 0.4], 2)      # the expected worst of 2
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def leak_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k samples drawn without replacement from n leaks, where c of the n do.

    1 − C(n−c, k) / C(n, k), as a product of k factors, exact for any n (no binomial is made). k = 1 is c / n.
    Raises ValueError for k > n, k < 1, and c outside 0 … n. Source: Chen et al. 2021 (arXiv 2107.03374); Leak-k.
    """
    _check(n, k)
    if not 0 <= c <= n:
        raise ValueError(f"c={c}: allowed is 0 to n={n}")
    if n - c < k:
        return 1.0
    none = math.prod((n - c - i) / (n - i) for i in range(k))
    return 1.0 - none


def expected_max(scores: Sequence[float], k: int) -> float:
    """Expected largest of k scores drawn without replacement: Σ_j s₍ⱼ₎ · C(j−1, k−1) / C(n, k), s₍ⱼ₎ the j-th smallest.

    k = 1 is the mean, k = n the largest. Raises ValueError for k > n and k < 1.
    """
    ordered = sorted(scores)
    n = len(ordered)
    _check(n, k)
    total, weight = 0.0, k / n  # of the largest: C(n−1, k−1) / C(n, k)
    for j in range(n, k - 1, -1):
        total += ordered[j - 1] * weight
        weight *= (j - k) / (j - 1) if j > 1 else 0.0  # C(j−2, k−1) / C(j−1, k−1)
    return total


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: allowed is 1 to n={n}, the number of samples")
