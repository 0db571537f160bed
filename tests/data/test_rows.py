from __future__ import annotations

import pytest

from simu.data.rows import Row, file_in, read_file
from simu.types import UserError


def write(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def test_reads_unicode_line_separators_inside_texts(tmp_path):
    """U+2028 may stand unescaped in JSON; it must not cut a row in two as str.splitlines would."""
    path = write(tmp_path / "a.jsonl", '{"q": "naïve\u2028日本 🎉"}', '{"q": "b"}\r', "")
    assert [r.text("q") for r in read_file(path)] == ["naïve\u2028日本 🎉", "b"]


def test_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    assert read_file(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"q": "b"}'))[0].text("q") == "b"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"q": "a"', "broken JSON"),
        ("", "broken JSON"),
        ("[1]", "a JSON object is needed, is list"),
        (b'{"q": "\xff"}', "not UTF-8"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_broken_line_is_named(tmp_path, line, says):
    path = write(tmp_path / "a.jsonl", '{"q": "a"}', line, '{"q": "c"}')
    with pytest.raises(UserError) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}, row 2: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_file(tmp_path):
    with pytest.raises(UserError, match="the file is empty"):
        read_file(write(tmp_path / "a.jsonl", b""))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"p": "x"}, "no field 'q'; it has p"),
        ({}, "no field 'q'; it has none"),
        ({"q": None}, "must be a text, is null"),
        ({"q": 1956}, "must be a text, is int 1956"),
        ({"q": ["x"]}, "must be a text, is list"),
        ({"q": ""}, "is empty"),
        ({"q": " \t\n\u00a0\u3000"}, "is empty"),
        ({"q": "\ud83d"}, "half a surrogate pair"),
    ],
)
def test_bad_text(cells, says):
    with pytest.raises(UserError, match=r"^f, row 3: ") as error:
        Row("f, row 3", cells).text("q")
    assert says in str(error.value)


def test_texts():
    assert Row("f", {"q": ["a", "b"]}).texts("q") == ("a", "b")
    for bad in ("a", [], None, 3):
        with pytest.raises(UserError, match="must be a list of texts"):
            Row("f", {"q": bad}).texts("q")
    with pytest.raises(UserError, match=r"'q\[1\]' is empty"):
        Row("f", {"q": ["a", " "]}).texts("q")


def test_long_text_is_kept_whole():
    assert Row("f", {"q": "word " * 10_000}).text("q") == "word " * 10_000


def test_missing_file_says_what_is_there(tmp_path):
    write(tmp_path / "full.jsonl", "{}")
    (tmp_path / "folds").mkdir()
    with pytest.raises(UserError) as error:
        file_in(tmp_path, "forget10.jsonl")
    assert str(error.value) == f"data.path={tmp_path}: no forget10.jsonl there; {tmp_path} holds folds/, full.jsonl"
    with pytest.raises(UserError, match="no such folder"):
        file_in(tmp_path / "nowhere", "forget10.jsonl")
