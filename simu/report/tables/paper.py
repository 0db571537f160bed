"""Tables 1–5 of the paper over finished runs; those that no run fills are left out."""

from __future__ import annotations

from collections.abc import Sequence

from simu.report.groups import Group
from simu.report.table import Table
from simu.report.tables.scores import score_tables
from simu.report.tables.settings import LABELS, setting_tables


def paper_tables(groups: Sequence[Group], before: Sequence[Group]) -> list[Table]:
    """Tables 1–5; each method stands with the config nearest to its preset."""
    made = [*score_tables(groups, before), *setting_tables(groups)]
    return [
        table
        for table in made
        if any(c.style in ("score", "percent") or c.label in LABELS.values() for c in table.columns)
    ]
