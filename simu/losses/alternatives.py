"""How many alternatives each row to forget has."""

from __future__ import annotations

from simu.slots import Objective


def alternatives_each(objective: Objective, n_forget: int, n_alternatives: int) -> int:
    """Alternatives of each forget row; 0 where the loss reads none. Raises ValueError where they are not as many."""
    if objective.forget.answers == "original":
        return 0
    parts, left = divmod(n_alternatives, n_forget)
    if left or not parts:
        name = type(objective.forget).__name__
        raise ValueError(f"{name} needs an alternative for each of the {n_forget} forget rows")
    return parts
