"""Rows from JSON Lines, Parquet or the hub, checked field by field: a bad row is an error that names file and row; and
a digest of what rows say.

Nothing is dropped, and nothing is converted: `datasets` would load a column of mixed types silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from simu.store.files import canonical
from simu.types import Example, UserError

Percent = Literal["01", "05", "10", 1, 5, 10]
"""Share of the authors to forget. Numbers too: `data.forget=10` on the command line is one, `data.forget=05` a text."""


@dataclass(frozen=True)
class Row:
    """One row as it was read, and where: 'forget10.jsonl, row 18' (rows count from 1, as editors count lines)."""

    where: str
    cells: Mapping[str, object]

    def text(self, field: str) -> str:
        """The field as it stands. Raises UserError unless it is a text with more than white space in it."""
        if field not in self.cells:
            raise UserError(f"{self.where}: no field '{field}'; it has {', '.join(self.cells) or 'none'}")
        return self._text(field, self.cells[field])

    def texts(self, field: str) -> tuple[str, ...]:
        """The field as a tuple of one text or more."""
        value = self.cells.get(field)
        if not isinstance(value, list) or not value:
            raise UserError(f"{self.where}: field '{field}' must be a list of texts, is {_show(value)}")
        return tuple(self._text(f"{field}[{i}]", item) for i, item in enumerate(value))

    def _text(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise UserError(f"{self.where}: field '{field}' must be a text, is {_show(value)}")
        if not value.strip():
            raise UserError(f"{self.where}: field '{field}' is empty (or only white space); mend or remove the row")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise UserError(f"{self.where}: field '{field}' holds half a surrogate pair, which is no text")
        return value


def _show(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {value!r}"[:60]


def read_jsonl(path: Path) -> list[Row]:
    """Every line of a UTF-8 JSON Lines file. Raises UserError naming the line that is not a JSON object."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the file is empty")
    return [
        Row(where, _object(line, where)) for line, where in ((t, f"{path}, row {i + 1}") for i, t in enumerate(lines))
    ]


def _object(line: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON, {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise UserError(f"{where}: JSON nested too deep") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON object is needed, is {_show(value)}")
    return value


def numbered(cells: Iterable[Mapping[str, object]], name: str) -> list[Row]:
    """Rows of something that is not a JSON Lines file: a hub configuration, a Parquet file."""
    return [Row(f"{name}, row {i + 1}", c) for i, c in enumerate(cells)]


def file_in(folder: Path, name: str) -> Path:
    """The file of that name. Raises UserError that says what the folder holds instead."""
    if not folder.is_dir():
        raise UserError(f"data.path={folder}: no such folder; allowed is one that holds {name}, or null for the hub")
    path = folder / name
    if not path.is_file():
        near = path.parent if path.parent.is_dir() else folder
        held = sorted(p.name + "/" * p.is_dir() for p in near.iterdir() if not p.name.startswith("."))
        shown = ", ".join(held[:12]) + (f" and {len(held) - 12} more" if len(held) > 12 else "")
        raise UserError(f"data.path={folder}: no {name} there; {near} holds {shown or 'nothing'}")
    return path


def digest(rows: Iterable[Example]) -> str:
    """SHA-256 (hex) of the rows' fields, in order, as canonical JSON: the cache's key for data.

    Paths and modification times do not enter it. The order of rows does, since training sees it.
    """
    sha = hashlib.sha256()
    for row in rows:
        sha.update(canonical(asdict(row)).encode() + b"\n")
    return sha.hexdigest()
