"""Rows from JSON, Parquet or the hub, checked field by field: a bad row is an error that names file and row; and
a digest of what rows say.

Nothing is dropped, and nothing is converted: `datasets` would load a column of mixed types silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from simu.store.files import canonical
from simu.types import Example, UserError, shown

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


SUFFIXES = (".jsonl", ".json", ".parquet")


def read_rows(folder: Path, stem: str) -> list[Row]:
    """The rows of STEM.jsonl, .json or .parquet in a folder. Raises UserError where there is none, or more than one."""
    names = [f"{stem}{suffix}" for suffix in SUFFIXES]
    there = [name for name in names if (folder / name).exists()]
    if len(there) > 1:
        raise UserError(f"data.path={folder}: {' and '.join(there)} are both there; allowed is one of them")
    return read_file(file_in(folder, (there or names)[0]))


def read_file(path: Path) -> list[Row]:
    """The rows of a file: Parquet by its name, else JSON Lines or one JSON array, by its content."""
    if path.suffix == ".parquet":
        return read_parquet(path)
    content = read_bytes(path)
    rows = list(_elements(content, path) if content.lstrip()[:1] == b"[" else _lines(content, path))
    if not rows:
        raise UserError(f"{path}: the file is empty")
    return rows


def read_bytes(path: Path) -> bytes:
    """A file without its byte order mark. Raises UserError where it cannot be read, or is none (a pipe)."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: cannot be read (it is no file)")
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_text(path: Path) -> str:
    """As `read_bytes`, for what is UTF-8."""
    return decoded(read_bytes(path), str(path))


def decoded(content: bytes, where: str) -> str:
    """Bytes as text. Raises UserError, with byte and line, for what is no UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where}: not UTF-8 (byte {error.start}), in line {line}") from error


def _lines(content: bytes, path: Path) -> Iterator[Row]:
    """A JSON object a line."""
    lines = content.split(b"\n")
    for i, line in enumerate(lines[:-1] if lines[-1] == b"" else lines):
        where = f"{path}, row {i + 1}"
        with named(where):
            value = json.loads(line.decode(), object_pairs_hook=unique)
        yield as_row(value, where)


def _elements(content: bytes, path: Path) -> Iterator[Row]:
    """The objects of one JSON array, read one by one so that a broken one is named."""
    text, decoder = decoded(content, str(path)), json.JSONDecoder(object_pairs_hook=unique)
    at, row = _skip(text, text.index("[") + 1), 0
    more = text[at : at + 1] != "]"
    while more:
        row, where = row + 1, f"{path}, row {row + 1}"
        with named(where):
            value, at = decoder.raw_decode(text, at)
        yield as_row(value, where)
        at = _skip(text, at)
        if more := text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise UserError(f"{where}: broken JSON, no comma or closing bracket after it")
    if text[at + 1 :].strip():
        raise UserError(f"{path}: broken JSON, more stands after the closing bracket")


class FieldTwice(ValueError):
    """A JSON object has two fields of one name, of which `json` would drop the first."""


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, none of its fields dropped."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise FieldTwice(shown(name))
        found[name] = value
    return found


def _skip(text: str, at: int) -> int:
    """The next place that is no white space."""
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at


@contextmanager
def named(where: str) -> Iterator[None]:
    """What reading JSON raises, as UserError with the row."""
    try:
        yield
    except UserError:
        raise
    except FieldTwice as error:
        raise UserError(f"{where}: field {error} stands twice in it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON, {error.msg} at column {error.colno}") from error
    except ValueError as error:  # Python reads no whole number of more than 4300 digits
        raise UserError(f"{where}: holds a number of thousands of digits, which is no number to read") from error
    except RecursionError as error:
        raise UserError(f"{where}: JSON nested too deep") from error


def as_row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a JSON object is needed, is {_show(value)}")
    return Row(where, value)


def read_parquet(path: Path) -> list[Row]:
    """The rows of a Parquet file. Raises UserError for one that is not whole."""
    import pyarrow
    import pyarrow.parquet

    if path.exists() and not path.is_file():
        raise UserError(f"{path}: cannot be read (it is no file)")
    try:
        names = pyarrow.parquet.read_schema(path).names
        if not (twice := [name for name in names if names.count(name) > 1]):
            return numbered(pyarrow.parquet.read_table(path).to_pylist(), str(path))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: no whole Parquet file ({' '.join(str(error).split())[:200]})") from error
    raise UserError(f"{path}: two columns are called {shown(twice[0])}")


def numbered(cells: Iterable[Mapping[str, object]], name: str) -> list[Row]:
    """Rows of something that is no JSON file: a hub configuration, a Parquet file."""
    return [Row(f"{name}, row {i + 1}", c) for i, c in enumerate(cells)]


def file_in(folder: Path, name: str) -> Path:
    """The file of that name. Raises UserError that says what the folder holds instead."""
    if not folder.is_dir():
        raise UserError(f"data.path={folder}: no such folder; allowed is one that holds {name}, or null for the hub")
    path = folder / name
    if not path.exists():
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
