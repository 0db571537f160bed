"""What a data set must be: rows to forget and to keep that do not overlap, and rows to evaluate both on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simu.data.comparing import row_key
from simu.slots import Data
from simu.testing.contract import Check, of, run_checks
from simu.types import Example, Splits

UNTAUGHT = ("holdout", "mia_nonmember")
"""Evaluation splits of rows that nobody has learnt."""
TAUGHT = ("forget", "retain")


@dataclass(frozen=True)
class Given:
    data: Data

    def __call__(self) -> Splits:
        return self.data()


def check_data(data: Data, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold a data set to its slot's contract (`simu.slots.Data`). Raises AssertionError, naming it, check and mistake.

    The rows are read some times over: give it a small folder.
    """
    run_checks(data, Given(data), CHECKS, expected_failed_checks)


def has_the_common_keys(given: Given) -> None:
    """name, path, forget and overlap, so that presets and sweeps compose over any data set."""
    for key in ("name", "path", "forget", "overlap"):
        assert hasattr(given.data, key), f"has no field {key!r}; sweeps set data.{key} for any data set"


def gives_rows(given: Given) -> None:
    """Splits of its own name, with rows to forget, to retain and to evaluate both on."""
    splits = given()
    assert isinstance(splits, Splits), f"returned a {type(splits).__name__}; simu.types.Splits is needed"
    assert splits.name == given.data.name, f"calls its splits {splits.name!r}, itself {given.data.name!r}"
    for side in TAUGHT:
        assert getattr(splits, side), f"has no {side} rows"
        assert splits.evaluation.get(side), f"has nothing to evaluate {side} on: evaluation[{side!r}] is empty"


def gives_each_row_an_id_of_its_own(given: Given) -> None:
    """A row finds its score under another model by its id."""
    splits = given()
    for where, rows in (("the taught rows", taught(splits)), *splits.evaluation.items()):
        ids = [row.id for row in rows]
        twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
        assert not twice, f"has the id {twice[0]!r} more than once in {where}"


def taught(splits: Splits) -> tuple[Example, ...]:
    return (*splits.forget, *splits.retain, *splits.background)


def keeps_forget_and_retain_apart(given: Given) -> None:
    """No row is both forgotten and retained, by id or by what it says."""
    splits = given()
    retained = {key: row for row in splits.retain for key in (("id", row.id), row_key(row))}
    for row in splits.forget:
        other = retained.get(("id", row.id)) or retained.get(row_key(row))
        assert other is None, f"forget row {row.id!r} is retained, too, as {other.id!r}; leave it out of one"


def has_text_in_every_row(given: Given) -> None:
    """Answers are never blank, nor are the prompts of what is taught; but for documents, which are an answer to nothing
    under a template of the data set's own that adds nothing."""
    splits = given()
    bare = splits.template is not None and splits.template.render("") == ""
    for row in (*taught(splits), *(row for rows in splits.evaluation.values() for row in rows)):
        assert row.answer.strip(), f"row {row.id!r} has a blank answer"
    for row in taught(splits):
        assert row.prompt.strip() or (bare and not row.prompt), f"row {row.id!r} has a blank prompt"


def evaluates_what_it_teaches(given: Given) -> None:
    """evaluation["forget"] and ["retain"] are taught rows, word for word."""
    splits = given()
    for side in TAUGHT:
        known = {row.id: row for row in getattr(splits, side)}
        for row in splits.evaluation[side]:
            found = known.get(row.id)
            how = "differs from" if found else "is not among"
            assert found == row, f"evaluation row {row.id!r} of {side} {how} the rows that are taught"


def holds_out_what_it_does_not_teach(given: Given) -> None:
    """Rows of holdout and mia_nonmember are not taught: they are what membership is measured against."""
    splits = given()
    ids, texts = {row.id for row in taught(splits)}, {row_key(row) for row in taught(splits)}
    for split in UNTAUGHT:
        for row in splits.evaluation.get(split, ()):
            known = row.id in ids or row_key(row) in texts
            assert not known, f"row {row.id!r} of {split} is taught, too: it is no non-member"


def gives_the_same_rows_twice(given: Given) -> None:
    """A function of its fields."""
    assert given() == given(), "gave other rows when asked again; draw from a random.Random made of a field `seed`"


CHECKS: tuple[Check, ...] = (
    *of("data"),
    has_the_common_keys,
    gives_rows,
    gives_each_row_an_id_of_its_own,
    keeps_forget_and_retain_apart,
    has_text_in_every_row,
    evaluates_what_it_teaches,
    holds_out_what_it_does_not_teach,
    gives_the_same_rows_twice,
)
