"""Rows of a file of one's own: JSON Lines, JSON, CSV, TSV or Parquet, by the end of its name.

A CSV cell is the text that stands there: `datasets` would make a number of 007, nothing of NA, and fill short rows up.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from simu.data.rows import Row, as_row, decoded, named, read_bytes, read_file, read_parquet, read_text, unique
from simu.types import UserError, shown


def read(path: Path) -> list[Row]:
    """The rows of a file, one at least; each knows its place. Raises UserError for a file that is not whole, not of a
    kind that is read, or without rows."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: not a kind of file that is read; allowed are {KINDS}")
    rows = reader(path)
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    return rows


def read_json(path: Path) -> list[Row]:
    """One array of objects, one object that holds one list of them, or an object a line."""
    content = read_bytes(path)
    if content.lstrip()[:1] != b"{":
        return read_file(path)
    text = decoded(content, str(path))
    with named(str(path)):
        try:
            whole = json.loads(text, object_pairs_hook=unique, parse_int=_whole_number)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data":
                return read_file(path)
            raise UserError(f"{path}, line {error.lineno}: broken JSON, {error.msg}") from error
    lists = [name for name, value in whole.items() if isinstance(value, list)]
    if len(lists) > 1:
        raise UserError(f"{path}: one list of rows is needed, it has {', '.join(map(shown, lists[:5]))}")
    values = whole[lists[0]] if lists else [whole]
    return [as_row(value, f"{path}, row {i}") for i, value in enumerate(values, 1)]


class Digits:
    """A whole number that Python does not read; no text, so no row has it where one is needed."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return f"of {len(self.text)} digits"


def _whole_number(text: str) -> int | Digits:
    try:
        return int(text)
    except ValueError:
        return Digits(text)


def read_delimited(path: Path, delimiter: str) -> list[Row]:
    """CSV (RFC 4180) or TSV with a header, UTF-8. A row's place is its number and the line in which it begins."""
    text = read_text(path)
    records = _records(text, path, delimiter)
    if not records:
        raise UserError(f"{path}: the file is empty")
    _, header = records[0]
    if twice := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{path}, line 1: the header has {shown(twice[0])} twice")
    rows = []
    for number, (line, cells) in enumerate(records[1:], 1):
        where = f"{path}, row {number} (line {line})"
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} cells, the header has {len(header)}")
        rows.append(Row(where, dict(zip(header, cells, strict=True))))
    return rows


def _records(text: str, path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """(line in which it begins, cells) of each record; blank lines at the end are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[tuple[int, list[str]]] = []
    line = 1
    with _cells_of_any_length(len(text)):
        try:
            for cells in reader:
                found.append((line, cells))
                line = reader.line_num + 1
        except csv.Error as error:
            place = f"row {len(found)} (line {line})" if found else f"line {line}"
            raise UserError(f"{path}, {place}: broken quotes ({error})") from error
    while found and not found[-1][1]:
        found.pop()
    return found


@contextmanager
def _cells_of_any_length(longest: int) -> Iterator[None]:
    before = csv.field_size_limit(max(longest, 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


READERS: Mapping[str, Callable[[Path], list[Row]]] = {
    ".jsonl": read_file,
    ".json": read_json,
    ".csv": partial(read_delimited, delimiter=","),
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".parquet": read_parquet,
}
"""By the end of a file's name, in small letters."""
*_FIRST, _LAST = READERS
KINDS = f"{', '.join(_FIRST)} and {_LAST}"
