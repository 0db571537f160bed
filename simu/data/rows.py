"""Rows from JSON Lines, Parquet or the hub, checked field by field: a bad row is an error that names file and row.

Nothing is dropped, and nothing is converted: `datasets` would load a column of mixed types silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simu.types import UserError

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


def preflight(repository: str) -> None:
    """Fail within seconds, in one line, where the hub does not serve a data set (its client alone takes up to minutes).

    With HF_HUB_OFFLINE=1 nothing is asked: the loader then reads the local cache or fails at once.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().dataset_info(repository, timeout=5)
    except Exception as error:  # the client raises a dozen kinds; each means the same to the user
        raise unreachable(repository, error) from error


def unreachable(repository: str, error: Exception) -> UserError:
    """One line for whatever the hub client raised."""
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE=1 and it is not in the local cache" if constants.HF_HUB_OFFLINE else type(error).__name__
    instead = "" if constants.HF_HUB_OFFLINE else ", HF_TOKEN for a gated set, or HF_HUB_OFFLINE=1 for a cached one"
    return UserError(
        f"data.path=null: {repository} cannot be had from the hub ({why}); "
        f"pass a local folder (data.path=/path/to/folder){instead}"
    )
