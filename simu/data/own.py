"""`rows`: your own rows to forget and to retain, from files (`simu.data.formats`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from simu.data.comparing import Overlap, check_apart
from simu.data.formats import KINDS, read
from simu.data.rows import Row
from simu.fields import Count, Place, component
from simu.types import Example, Splits, Template, UserError, require, shown

log = logging.getLogger(__name__)

PAIRS = (("question", "answer"), ("prompt", "completion"), ("input", "output"))
"""Columns of prompt and answer, looked for in this order; then MESSAGES, then TEXT."""
PARAPHRASED = ("paraphrased_question", "paraphrased_answer")
"""What TOFU calls them; before PAIRS in data.paraphrase."""
WRONG = "perturbed_answer"
MESSAGES, TEXT = "messages", "text"
TURNS = ("system", "developer", "user", "assistant")
SHOWN = 12
"""Columns named in a message."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a row's texts stand."""

    kind: Literal["pair", "messages", "document"]
    names: tuple[str, ...]

    def __str__(self) -> str:
        return " → ".join(map(shown, self.names)) + (" (documents)" if self.kind == "document" else "")

    def texts(self, row: Row) -> tuple[str, str]:
        """Prompt and answer; a document is an answer to nothing."""
        if self.kind == "messages":
            return turns(row, self.names[0])
        *asked, answer = (row.text(name) for name in self.names)
        return (asked[0] if asked else ""), answer


@component
class Own:
    """Rows of your own to forget, to retain, and to measure membership against.

    A row's id is its split and its number in the file, from 1 ('forget/17'), or its `id`. Raises UserError for a file
    that cannot be read, columns that are not there and a bad row, each by name.
    """

    name: str = "rows"
    path: Place | None = None
    """The folder that the files are in; None: where the command runs."""
    forget: Place | None = None
    """A file of the rows to forget."""
    retain: Place | None = None
    """A file of rows to keep; None with objective/retain=none only."""
    holdout: Place | None = None
    """A file of rows that the model has never seen: the non-members of membership inference."""
    paraphrase: Place | None = None
    """A file of the forget rows in other words, and with wrong answers (`perturbed_answer`) where it has these."""
    prompt: str | None = None
    """The column of prompts; with `answer`, in every file. None: looked for (`PAIRS`)."""
    answer: str | None = None
    text: str | None = None
    """The column of plain documents. None: `text`, in files without prompts and answers."""
    group: str | None = None
    """The column that says what a row belongs to."""
    id: str | None = None
    """The column of ids. None: rows are numbered."""
    retain_rows: Count | None = None
    """The first N rows of `retain` only."""
    evaluation_rows: Count | None = None
    """The first N rows of every evaluation split only."""
    overlap: Overlap = "refuse"

    def __post_init__(self) -> None:
        given = [name for name in ("prompt", "answer") if getattr(self, name) is not None]
        if len(given) == 1:
            other = "answer" if given == ["prompt"] else "prompt"
            require(False, other, None, f"a column's name, beside {given[0]}")
        require(not (given and self.text), "text", self.text, "null with prompt and answer")

    def __call__(self) -> Splits:
        if self.forget is None:
            raise UserError(f"data.forget=null: allowed is a file of the rows to forget ({KINDS})")
        return self.of({split: self._file(split) for split in ("forget", "retain", "holdout") if getattr(self, split)})

    def of(self, files: Mapping[str, Sequence[Row]]) -> Splits:
        """The splits of rows that have been read, by split; each has one row at least. Raises UserError."""
        columns = {split: self._columns(rows[0]) for split, rows in files.items()}
        made = {split: self._examples(split, rows, columns[split]) for split, rows in files.items()}
        documents = _one_kind(columns, {split: rows[0] for split, rows in files.items()})
        if self.paraphrase is not None:
            if documents:
                raise UserError(f"data.paraphrase={shown(self.paraphrase)}: allowed is null with documents")
            made["forget"] = self._paraphrased(made["forget"])
        said = (f"{split} {len(made[split])} rows, {columns[split]}" for split in files)
        log.info("data=%s: %s", self.name, "; ".join(said))
        splits = self._splits(made, documents)
        places = {e.id: row.where for s, rows in files.items() for e, row in zip(made[s], rows, strict=True)}
        check_apart(splits, self.name, self.overlap == "allow", lambda row: f"{row.id} ({places[row.id]})")
        return splits

    def _splits(self, made: Mapping[str, tuple[Example, ...]], documents: bool) -> Splits:
        rows = {**made, "retain": made.get("retain", ())[: self.retain_rows]}
        return Splits(
            name=self.name,
            forget=rows["forget"],
            retain=rows["retain"],
            evaluation={split: of_split[: self.evaluation_rows] for split, of_split in rows.items() if of_split},
            template=Template(separator="") if documents else None,
        )

    def _file(self, field: str) -> list[Row]:
        given = str(getattr(self, field))
        path = Path(self.path or "", given)
        if not os.path.exists(path):
            raise UserError(f"data.{field}={shown(str(path))}: no such file; allowed is one that ends in {KINDS}")
        return read(path)

    def _columns(self, first: Row, pairs: Sequence[tuple[str, str]] = PAIRS) -> Columns:
        """Those that the fields name, else the first that the first row has."""
        if self.prompt is not None and self.answer is not None:
            return Columns(kind="pair", names=(self.prompt, self.answer))
        if self.text is not None:
            return Columns(kind="document", names=(self.text,))
        for pair in pairs:
            if all(name in first.cells for name in pair):
                return Columns(kind="pair", names=pair)
        if MESSAGES in first.cells:
            return Columns(kind="messages", names=(MESSAGES,))
        if TEXT in first.cells:
            return Columns(kind="document", names=(TEXT,))
        allowed = ", ".join(" and ".join(pair) for pair in pairs)
        raise UserError(
            f"{first.where}: its columns are {_listed(first)}; allowed are {allowed}, {MESSAGES}, {TEXT}, or others "
            "that data.prompt and data.answer, or data.text, name"
        )

    def _examples(self, split: str, rows: Sequence[Row], columns: Columns) -> tuple[Example, ...]:
        made: dict[str, Example] = {}
        for number, row in enumerate(rows, 1):
            prompt, answer = columns.texts(row)
            name = f"{split}/{number if self.id is None else _label(row, self.id)}"
            if name in made:
                raise UserError(f"{row.where}: field '{self.id}' {shown(name)} stands in an earlier row, too")
            group = "" if self.group is None else _label(row, self.group)
            made[name] = Example(id=name, prompt=prompt, answer=answer, group=group)
        return tuple(made.values())

    def _paraphrased(self, forget: Sequence[Example]) -> tuple[Example, ...]:
        """The forget rows with paraphrases, and with wrong answers where the file has these."""
        rows = self._file("paraphrase")
        again = self._examples("forget", rows, self._columns(rows[0], (PARAPHRASED, *PAIRS)))
        found = {example.id: (example, row) for example, row in zip(again, rows, strict=True)}
        known = {example.id for example in forget}
        for name, (_, row) in found.items():
            if name not in known:
                raise UserError(f"{row.where}: there is no row {shown(name)} that it could be a paraphrase of")
        for name in (example.id for example in forget):
            if name not in found:
                raise UserError(f"{rows[-1].where} is the last: there is no paraphrase of {shown(name)}")
        has_wrong = WRONG in rows[0].cells
        if not has_wrong:
            log.warning("data.paraphrase: no column %s: no truth ratio and no choice accuracy", WRONG)
        return tuple(
            replace(
                example,
                paraphrased_prompt=found[example.id][0].prompt,
                paraphrased_answer=found[example.id][0].answer,
                perturbed_answers=_wrong(found[example.id][1]) if has_wrong else (),
            )
            for example in forget
        )


def turns(row: Row, field: str) -> tuple[str, str]:
    """Prompt and answer of a conversation: all turns before the last, joined by blank lines; and the last, which is the
    assistant's."""
    held = row.cells.get(field)
    if not isinstance(held, list) or len(held) < 2:
        raise UserError(f"{row.where}: field '{field}' must be a list of two turns or more, each {{role, content}}")
    texts = []
    for number, turn in enumerate(held, 1):
        where = f"{row.where}, turn {number}"
        role = turn.get("role") if isinstance(turn, Mapping) else None
        if role not in TURNS:
            raise UserError(f"{where}: field 'role' must be {', '.join(TURNS)}, is {shown(role)}")
        texts.append(Row(where, turn).text("content"))
    if role != "assistant":
        raise UserError(f"{row.where}: field '{field}' ends with a turn of {role}; the last must be the assistant's")
    return "\n\n".join(texts[:-1]), texts[-1]


def _label(row: Row, field: str) -> str:
    """A text or a whole number, as text: CSV has no numbers."""
    value = row.cells.get(field)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text(field)


def _wrong(row: Row) -> tuple[str, ...]:
    """A list of texts, or one: a cell of CSV."""
    return (row.text(WRONG),) if isinstance(row.cells.get(WRONG), str) else row.texts(WRONG)


def _one_kind(columns: Mapping[str, Columns], first: Mapping[str, Row]) -> bool:
    """Whether the rows are documents. Raises UserError where some files hold documents and some questions."""
    documents = {split: c.kind == "document" for split, c in columns.items()}
    for split, is_document in documents.items():
        if is_document != documents["forget"]:
            raise UserError(
                f"{first[split].where}: column {columns[split]}, but {first['forget'].where} has {columns['forget']}; "
                "allowed are documents in every file, or in none"
            )
    return documents["forget"]


def _listed(row: Row) -> str:
    names = [shown(name) for name in row.cells]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more
