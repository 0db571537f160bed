"""The labels that stand before a row's figures: where it was asked, which method, and which options set rows apart."""

from __future__ import annotations

from collections.abc import Sequence

from simu.report.groups import Group, column_of
from simu.report.table import WHERE, Cell, Column, texts

SLOTS = ("objective", "optimizer", "perturbation", "selection", "attribution", "training")
"""Options with a column of their own where rows differ in them; the mask always has one."""


def slots_shown(groups: Sequence[Group]) -> tuple[str, ...]:
    """Those of SLOTS in which the rows differ, or whose option one of the methods does not pick by itself."""
    ours = [g for g in groups if not g.original]
    return tuple(
        slot
        for slot in SLOTS
        if len({said for g in ours if (said := g.option(slot)) != "–"}) > 1
        or any(slot == column_of(key) for g in ours for key in g.varying if g.is_option(key))
    )


def label_columns(slots: Sequence[str], *more: str) -> tuple[Column, ...]:
    return texts(*WHERE, "method", "mask", *slots, *more)


def label_cells(g: Group, slots: Sequence[str]) -> tuple[Cell, ...]:
    return (g.place, g.model, g.method, g.mask, *map(g.option, slots))
