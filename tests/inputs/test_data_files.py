"""Data files of any content are rows, or one line that names the file (and the row where there is one)."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from data_folders import OWN, lume, own, tofu, written
from hypothesis import given, settings
from hypothesis import strategies as st

from simu.data.lume import Lume
from simu.data.own import Own
from simu.data.rows import read_file, read_rows
from simu.data.tofu import Tofu
from simu.types import UserError

ROWS = [{"question": "Q0?", "answer": "A0."}, {"question": "Q1?", "answer": "A1."}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
DIGITS = "7" * 5000


def said(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_file(path)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), "F")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl", "\ufeff\n " + json.dumps(ROWS) + "\n\n"),
    ],
    ids=["lines", "lines as .json", "array", "indented array", "array as .jsonl"],
)
def test_json_is_told_by_its_content(tmp_path, name, content):
    assert [dict(row.cells) for row in read_file(written(tmp_path / name, content))] == ROWS
    assert [dict(row.cells) for row in read_rows(tmp_path, "a")] == ROWS


def test_parquet_is_read(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert [dict(row.cells) for row in read_rows(tmp_path, "a")] == ROWS


def test_two_files_of_one_name_are_not_chosen_between(tmp_path):
    written(tmp_path / "a.json", LINES)
    written(tmp_path / "a.jsonl", LINES)
    with pytest.raises(UserError, match=r"a\.jsonl and a\.json are both there; allowed is one of them"):
        read_rows(tmp_path, "a")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"id": ' + DIGITS + "}", "F, row 1: holds a number of thousands of digits, which is no number to read"),
        (LINES + '{"id": [' + DIGITS + "]}\n", "F, row 3: holds a number of thousands of digits"),
        ('[{"q": "a"}, {"id": ' + DIGITS + "}]", "F, row 2: holds a number of thousands of digits"),
        ('[{"q": "a"}, {"q": }]', "F, row 2: broken JSON"),
        ('[{"q": "a"} {"q": "b"}]', "F, row 1: broken JSON, no comma"),
        ('[{"q": "a"}, ', "F, row 2: broken JSON"),
        ('[{"q": "a"}', "F, row 1: broken JSON, no comma or closing bracket"),
        ('[{"q": "a"}] {}', "F: broken JSON, more stands after"),
        ('[{"q": "a"}, 5]', "F, row 2: a JSON object is needed, is int 5"),
        ("[]", "F: the file is empty"),
        ('[{"q": "a"},]', "F, row 2: broken JSON"),
        ("[" * 100_000, "F, row 1: JSON nested too deep"),
        ("", "F: the file is empty"),
        (b"[\xff]", "F: not UTF-8 (byte 1)"),
        (LINES.encode("utf-16"), "F, row 1: not UTF-8 (byte 0)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "F, row 1: broken JSON"),
        (b"\x1f\x8b\x08", "F, row 1: not UTF-8"),
    ],
)
def test_broken_json_names_file_and_row(tmp_path, content, line):
    assert said(written(tmp_path / "a.json", content)).startswith(line)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", LINES.encode()])
def test_broken_parquet(tmp_path, content):
    assert said(written(tmp_path / "a.parquet", content)).startswith("F: no whole Parquet file (")


def test_parquet_with_a_text_that_is_not_utf8(tmp_path):
    column = pyarrow.array([b"\xff"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"q": column}), tmp_path / "a.parquet")
    assert said(tmp_path / "a.parquet").startswith("F: no whole Parquet file (")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert said(tmp_path / name) == "F: cannot be read (it is no file)"
    with pytest.raises(UserError, match="it is no file"):
        read_rows(tmp_path, "a")


def test_a_fold_that_is_not_utf8(tmp_path):
    path = written(lume(tmp_path) / "folds" / "forget_heldout.txt", b"d4\nd\xff5\n")
    with pytest.raises(UserError, match=r"forget_heldout\.txt: not UTF-8 \(byte 4\)"):
        Lume(path=str(tmp_path))()
    written(path, "\ufeffd4\r\nd5\r\n")
    assert [row.id for row in Lume(path=str(tmp_path))().forget] == ["d4sc1", "d5sc1"]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"forget_heldout\.txt: cannot be read \(it is no file\)"):
        Lume(path=str(tmp_path))()


BROKEN = [b"", b"[]", b"{}", b"null", b"[{}]", DIGITS.encode(), b'{"id": ["a"]}', b'a,"b', b"a,a\n"]
ANY = st.binary(max_size=60) | st.sampled_from(BROKEN)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_content_of_any_file(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    kind, make = data.draw(st.sampled_from([(Tofu, tofu), (Lume, lume), (partial(Own, **OWN), own)]))
    files = sorted(p for p in make(root).rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    change = data.draw(st.sampled_from(["missing", "truncated", "any", "parquet", "more"]))
    whole = path.read_bytes()
    if change == "missing":
        path.unlink()
    elif change == "parquet":
        path.rename(path.with_suffix(".parquet"))
    else:
        half = whole[: data.draw(st.integers(0, len(whole)))]
        written(path, {"truncated": half, "any": data.draw(ANY), "more": whole + data.draw(ANY)}[change])
    try:
        line = "" if kind(path=str(root))().forget else "no row"
    except UserError as error:
        line = str(error)
    assert line == "" or str(root) in line or line.startswith("data.mia_set=fold: ")
    assert "\n" not in line
