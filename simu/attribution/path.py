"""Where a path from 0 to β is sampled, and what each sample weighs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from numpy.polynomial.legendre import leggauss

from simu.types import require

PathRule = Literal["gauss", "right", "left", "midpoint"]
Points = tuple[list[float], list[float]]


def riemann(shift: float) -> Callable[[int], Points]:
    """Nodes (j - shift)/m for j = 1..m, all of weight 1."""
    return lambda m: ([(j - shift) / m for j in range(1, m + 1)], [1.0] * m)


def gauss_legendre(m: int) -> Points:
    """Nodes and weights on [0, 1] that integrate polynomials below degree 2m exactly."""
    nodes, weights = leggauss(m)  # on [-1, 1]; the weights add up to 2
    return ((nodes + 1) / 2).tolist(), (weights * m / 2).tolist()


RULES: dict[str, Callable[[int], Points]] = {
    "gauss": gauss_legendre,
    "right": riemann(0.0),
    "left": riemann(1.0),
    "midpoint": riemann(0.5),
}
"""A rule gives m nodes, ascending, and their weights, which average 1."""


def path_points(m: int, path: str) -> Points:
    """(nodes, weights): ∫₀¹ f ≈ (1/m) Σ_j weights[j] · f(nodes[j]). Raises FieldError for m < 1 or an unknown rule."""
    require(m >= 1, "m", m, "m ≥ 1")
    require(path in RULES, "path", path, ", ".join(RULES))
    return RULES[path](m)
