"""When two texts are the same text, and when two rows are the same row."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Literal

from simu.fields import KNOB
from simu.types import Example, Splits, UserError

Overlap = Annotated[Literal["refuse", "allow"], KNOB]
"""Whether rows may stand in two splits that must share none (`APART`)."""
APART = (
    ("forget", "retain", "what is to be forgotten would be taught again"),
    ("holdout", "forget", "they are no non-members"),
    ("holdout", "retain", "they are no non-members"),
    ("mia_nonmember", "mia_member", "they are no non-members"),
    ("mia_nonmember", "forget", "they are no non-members"),
    ("mia_nonmember", "retain", "they are no non-members"),
)
"""Splits that share no row, and why not."""
SHOWN = 3
"""Rows named in a message."""


def compared(text: str) -> str:
    """The form in which texts are compared, whatever they are compared by: NFC (Unicode's UAX #15: 'é' is one
    character, however it was typed), without white space around it."""
    return unicodedata.normalize("NFC", text).strip()


def row_key(row: Example) -> str:
    """Equal for rows that ask and answer the same, letter case aside; and for the document that a row is."""
    return compared(f"{compared(row.prompt)} {compared(row.answer)}").casefold()


def shared_rows(some: Iterable[Example], others: Iterable[Example]) -> list[tuple[Example, Example]]:
    """Rows of `some` that are among `others`, each with the first that it equals."""
    known: dict[str, Example] = {}
    for row in others:
        known.setdefault(row_key(row), row)
    return [(row, known[key]) for row in some if (key := row_key(row)) in known]


def row_id(row: Example) -> str:
    return row.id


def overlaps(splits: Splits, named: Callable[[Example], str] = row_id) -> list[str]:
    """One line for each two splits that must not share rows and do: how many, which (as `named` calls them)."""
    held: Mapping[str, Sequence[Example]] = {
        **splits.evaluation,
        "forget": splits.forget,
        "retain": splits.retain,
    }
    found = []
    for one, other, why in APART:
        if both := shared_rows(held.get(one, ()), held.get(other, ())):
            pairs = ", ".join(f"{named(a)} = {named(b)}" for a, b in both[:SHOWN])
            more = f" and {len(both) - SHOWN} more" if len(both) > SHOWN else ""
            found.append(f"{len(both)} of {len(held[one])} {one} rows stand in {other}, too ({pairs}{more}): {why}")
    return found


def check_apart(splits: Splits, data: str, allowed: bool, named: Callable[[Example], str] = row_id) -> list[str]:
    """What a run says of rows in two splits that must share none; raises UserError unless they are `allowed`."""
    found = overlaps(splits, named)
    if found and not allowed:
        raise UserError(f"data={data}: {'; '.join(found)}; take them out of one, or pass data.overlap=allow")
    return [f"data.overlap=allow: {line}" for line in found]
