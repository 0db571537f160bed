"""`data=rows`: the files of any format, their columns, and what is said of those that cannot be rows."""

from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from data_folders import EXAMPLE, written

from simu.data.own import Own
from simu.testing import check_data
from simu.types import Example, FieldError, Template, UserError

HOSTILE = [
    "=cmd|' /C calc'!A0",
    'a "quoted", cell;\tand a tab',
    "two\nlines\r\nand a third",
    "x" * 300,
    "NA",
    "007",
    "</s> <script>",
    "日本語 é é 🎻",
    " spaces around ",
]
ROWS = [{"question": f"Q{i}? {text}", "answer": text} for i, text in enumerate(HOSTILE)]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """The rows in the format that the name ends in, by another hand than the reader's: csv, json, pyarrow."""
    if path.suffix == ".jsonl":
        return written(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if path.suffix == ".json":
        return written(path, json.dumps(rows, indent=1))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter={".csv": ",", ".tsv": "\t"}[path.suffix])
        table.writeheader()
        table.writerows(rows)
    return path


def forget(path: Path, **fields: str | None) -> tuple[Example, ...]:
    return Own(forget=str(path), **fields)().forget


def said(folder: Path, **fields: str | None) -> str:
    """The one line of a refusal, with the folder as F."""
    with pytest.raises(UserError) as error:
        Own(**fields)()
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "F")


def refused(folder: Path, name: str, content: str | bytes, **fields: str | None) -> str:
    return said(folder, forget=str(written(folder / name, content)), **fields)


# ---- formats


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet", "CSV"])
def test_every_format_gives_the_same_rows_whatever_they_hold(tmp_path, ending):
    path = write(tmp_path / f"a.{ending.lower()}", ROWS).rename(tmp_path / f"b.{ending}")
    expected = [(f"forget/{i}", f"Q{i - 1}? {text}", text) for i, text in enumerate(HOSTILE, 1)]
    assert [(row.id, row.prompt, row.answer) for row in forget(path)] == expected


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"version": 1, "data": ROWS}),
        json.dumps({"data": ROWS}, indent=2),
        "\ufeff" + json.dumps(ROWS),
        "".join(json.dumps(row) + "\n" for row in ROWS),
    ],
    ids=["an object with one list", "indented", "byte order mark", "an object a line"],
)
def test_json_in_its_forms(tmp_path, content):
    assert [row.answer for row in forget(written(tmp_path / "a.json", content))] == HOSTILE


def test_one_object_is_one_row(tmp_path):
    assert len(forget(written(tmp_path / "a.json", json.dumps(ROWS[0], indent=2)))) == 1


def test_a_spreadsheets_csv(tmp_path):
    """Byte order mark, CRLF, more columns, blank lines at the end."""
    path = written(tmp_path / "a.csv", '\ufeffno,answer,question\r\n1,A,Q\r\n2,"B\r\nC",R\r\n\r\n\r\n')
    assert [(row.prompt, row.answer) for row in forget(path)] == [("Q", "A"), ("R", "B\r\nC")]


def test_a_cell_of_any_length(tmp_path):
    long = "word " * 50_000 + "end"
    assert forget(written(tmp_path / "a.csv", f"question,answer\nQ,{long}\n"))[0].answer == long
    assert csv.field_size_limit() == 131_072


# ---- columns


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ({"question": "Q", "answer": "A", "prompt": "no", "completion": "no"}, ("Q", "A")),
        ({"output": "no", "input": "no", "prompt": "Q", "completion": "A"}, ("Q", "A")),
        ({"input": "Q", "output": "A", "text": "no"}, ("Q", "A")),
        ({"text": "A", "other": "no"}, ("", "A")),
    ],
)
def test_columns_are_looked_for_in_this_order(tmp_path, names, taken):
    (row,) = forget(write(tmp_path / "a.csv", [names]))
    assert (row.prompt, row.answer) == taken


def test_columns_by_name_and_what_was_taken_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = [{"frage": "Q", "antwort": "A", "wer": "Ada", "nr": 7, "question": "no", "answer": "no"}]
    path = str(write(tmp_path / "a.jsonl", rows))
    splits = Own(forget=path, prompt="frage", answer="antwort", group="wer", id="nr")()
    assert splits.forget == (Example(id="forget/7", prompt="Q", answer="A", group="Ada"),)
    assert "data=rows: forget 1 rows, 'frage' → 'antwort'" in caplog.messages
    assert splits.template is None


def test_a_named_column_of_documents(tmp_path):
    path = str(write(tmp_path / "a.tsv", [{"body": "A whole text.", "question": "no", "answer": "no"}]))
    splits = Own(forget=path, text="body")()
    assert splits.forget == (Example(id="forget/1", prompt="", answer="A whole text."),)
    assert splits.template == Template(prompt="{prompt}", separator="")


def test_messages(tmp_path):
    turns = [("system", "Be brief."), ("user", "Who?"), ("assistant", "Ada."), ("user", "When?"), ("assistant", "Now.")]
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in turns]},
        {"messages": [{"role": role, "content": text} for role, text in turns[1:3]]},
    ]
    expected = [("Be brief.\n\nWho?\n\nAda.\n\nWhen?", "Now."), ("Who?", "Ada.")]
    for name in ("a.jsonl", "a.parquet"):
        assert [(row.prompt, row.answer) for row in forget(write(tmp_path / name, rows))] == expected


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ("hi", "F/a.jsonl, row 1: field 'messages' must be a list of two turns or more, each {role, content}"),
        ([{"role": "user", "content": "Q"}], "F/a.jsonl, row 1: field 'messages' must be a list of two turns"),
        ([{"role": "tool", "content": "Q"}, 5], "F/a.jsonl, row 1, turn 1: field 'role' must be system, developer"),
        (
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None}],
            "F/a.jsonl, row 1, turn 2: field 'content' must be a text, is null",
        ),
        (
            [{"role": "assistant", "content": "A"}, {"role": "user", "content": "Q"}],
            "F/a.jsonl, row 1: field 'messages' ends with a turn of user; the last must be the assistant's",
        ),
    ],
)
def test_messages_that_are_none(tmp_path, messages, line):
    assert refused(tmp_path, "a.jsonl", json.dumps({"messages": messages})).startswith(line)


# ---- refusals

OK = '{"question": "Q", "answer": "A"}\n'


EMPTY = "is empty (or only white space); mend or remove the row"
DIGITS = "7" * 5000
KINDS = ".jsonl, .json, .csv, .tsv and .parquet"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"question": "R", "answer": 5}', ", row 2: field 'answer' must be a text, is int 5"),
        ('{"question": "R", "answer": null}', ", row 2: field 'answer' must be a text, is null"),
        ('{"question": "R", "answer": NaN}', ", row 2: field 'answer' must be a text, is float nan"),
        ('{"question": "R"}', ", row 2: no field 'answer'; it has question"),
        ('{"question": " ", "answer": "A"}', f", row 2: field 'question' {EMPTY}"),
        ('{"answer": "A", "answer": "B"}', ", row 2: field 'answer' stands twice in it"),
        (f'{{"answer": {DIGITS}}}', ", row 2: holds a number of thousands of digits, which is no number to read"),
        (b'{"question": "\xff"}', ", row 2: not UTF-8 (byte 14)"),
        ("\n" + OK, ", row 2: broken JSON, Expecting value at column 1"),
    ],
)
def test_a_bad_line_of_json(tmp_path, content, line):
    whole = OK.encode() + (content if isinstance(content, bytes) else content.encode())
    assert refused(tmp_path, "a.jsonl", whole) == f"F/a.jsonl{line}"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f'{{"data": [{{"question": "Q", "answer": {DIGITS}}}]}}', ", row 1: field 'answer' must be a text, is Digits"),
        ('{"data": [5]}', ", row 1: a JSON object is needed, is int 5"),
        ('{"data": []}', ": the file has no rows"),
        ('{"a": [1], "b": [2]}', ": one list of rows is needed, it has 'a', 'b'"),
        ('{"data":\n [{"question": }]}', ", line 2: broken JSON, Expecting value"),
        (b'{"data":\n "\xff"}', ": not UTF-8 (byte 11), in line 2"),
        ('{"a": ' * 100_000, ": JSON nested too deep"),
        ("", ": the file is empty"),
    ],
)
def test_a_bad_object_of_json(tmp_path, content, line):
    assert refused(tmp_path, "a.json", content).startswith(f"F/a.json{line}")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", ": the file is empty"),
        ("question,answer\n", ": the file has no rows"),
        ("question,answer,answer\nQ,A,B\n", ", line 1: the header has 'answer' twice"),
        ('question,answer\n"Q\nR",A\nS\n', ", row 2 (line 4): 1 cells, the header has 2"),
        ("question,answer\nQ,A,B\n", ", row 1 (line 2): 3 cells, the header has 2"),
        ("question,answer\nQ,A\n\nR,B\n", ", row 2 (line 3): 0 cells, the header has 2"),
        ("question,answer\nQ,A\nR,\n", f", row 2 (line 3): field 'answer' {EMPTY}"),
        ('question,answer\nQ,A\nR,"B\n\n', ", row 2 (line 3): broken quotes (unexpected end of data)"),
        ('"question,answer\n', ", line 1: broken quotes (unexpected end of data)"),
        (b"question,answer\nQ,A\nR,\xff\n", ": not UTF-8 (byte 22), in line 3"),
        ("question,answer\nQ,A\n".encode("utf-16"), ": not UTF-8 (byte 0), in line 1"),
        (
            "question;answer\nQ;A\n",
            ", row 1 (line 2): its columns are 'question;answer'; allowed are question and answer, prompt and "
            "completion, input and output, messages, text, or others that data.prompt and data.answer, or data.text, "
            "name",
        ),
    ],
)
def test_a_bad_table(tmp_path, content, line):
    assert refused(tmp_path, "a.csv", content) == f"F/a.csv{line}"


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.jsonl.gz"])
def test_another_kind_of_file(tmp_path, name):
    assert refused(tmp_path, name, OK) == f"F/{name}: not a kind of file that is read; allowed are {KINDS}"


def test_parquet_that_cannot_be_rows(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"question": ["Q", "R"], "answer": ["A", None]})
    pyarrow.parquet.write_table(table, path)
    assert said(tmp_path, forget=str(path)) == "F/a.parquet, row 2: field 'answer' must be a text, is null"
    pyarrow.parquet.write_table(pyarrow.table({"question": ["Q"], "answer": [float("nan")]}), path)
    assert said(tmp_path, forget=str(path)) == "F/a.parquet, row 1: field 'answer' must be a text, is float nan"
    pyarrow.parquet.write_table(pyarrow.table([["Q"], ["A"], ["B"]], names=["question", "answer", "answer"]), path)
    assert said(tmp_path, forget=str(path)) == "F/a.parquet: two columns are called 'answer'"
    pyarrow.parquet.write_table(table.slice(0, 0), path)
    assert said(tmp_path, forget=str(path)) == "F/a.parquet: the file has no rows"


def test_what_is_no_file(tmp_path):
    nothing = f"data.forget='F/a.jsonl': no such file; allowed is one that ends in {KINDS}"
    assert said(tmp_path) == f"data.forget=null: allowed is a file of the rows to forget ({KINDS})"
    assert said(tmp_path, forget=str(tmp_path / "a.jsonl")) == nothing
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "b.jsonl")
    assert said(tmp_path, forget=str(tmp_path / "a.jsonl")) == nothing
    (tmp_path / "c.csv").symlink_to(tmp_path / "c.csv")
    assert said(tmp_path, forget=str(tmp_path / "c.csv")).startswith("data.forget='F/c.csv': no such file")
    for name in ("d.jsonl", "d.json", "d.csv", "d.parquet"):
        (tmp_path / name).mkdir()
        assert said(tmp_path, forget=str(tmp_path / name)) == f"F/{name}: cannot be read (it is no file)"
        (tmp_path / name).rmdir()
        os.mkfifo(tmp_path / name)
        assert said(tmp_path, forget=str(tmp_path / name)) == f"F/{name}: cannot be read (it is no file)"


def test_a_link_to_a_file_is_the_file(tmp_path):
    written(tmp_path / "a.jsonl", OK)
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    assert forget(tmp_path / "b.jsonl") == forget(tmp_path / "a.jsonl")


def test_fields_that_do_not_go_together():
    for fields in ({"prompt": "q"}, {"answer": "a"}, {"prompt": "q", "answer": "a", "text": "t"}):
        with pytest.raises(FieldError):
            Own(forget="a.jsonl", **fields)


def test_ids(tmp_path):
    rows = [{"question": "Q", "answer": "A", "id": 1}, {"question": "R", "answer": "B", "id": "1"}]
    path = write(tmp_path / "a.jsonl", rows)
    assert [row.id for row in forget(path)] == ["forget/1", "forget/2"]
    twice = "F/a.jsonl, row 2: field 'id' 'forget/1' stands in an earlier row, too"
    assert said(tmp_path, forget=str(path), id="id") == twice
    assert said(tmp_path, forget=str(path), id="nr").startswith("F/a.jsonl, row 1: no field 'nr'; it has question")
    assert refused(tmp_path, "b.jsonl", OK[:-2] + ', "id": true}', id="id").endswith("must be a text, is bool True")


def test_documents_and_questions_are_not_mixed(tmp_path):
    written(tmp_path / "a.jsonl", '{"text": "A."}')
    written(tmp_path / "b.csv", "question,answer\nQ,A\n")
    assert said(tmp_path, path=str(tmp_path), forget="a.jsonl", retain="b.csv") == (
        "F/b.csv, row 1 (line 2): column 'question' → 'answer', but F/a.jsonl, row 1 has 'text' (documents); "
        "allowed are documents in every file, or in none"
    )


# ---- splits


def test_a_row_in_two_files_is_refused_with_both_places(tmp_path):
    written(tmp_path / "a.jsonl", OK + '{"question": "R", "answer": "Zoë"}')
    written(tmp_path / "b.csv", 'question,answer,nr\nX,"Y\nZ",p\n r ,zoe\u0308,q\n')
    fields = {"path": str(tmp_path), "forget": "a.jsonl", "retain": "b.csv"}
    assert said(tmp_path, **fields) == (
        "data=rows: 1 of 2 forget rows stand in retain, too (forget/2 (F/a.jsonl, row 2) = retain/2 (F/b.csv, row 2 "
        "(line 4))): what is to be forgotten would be taught again; take them out of one, or pass data.overlap=allow"
    )
    assert len(Own(**fields, overlap="allow")().retain) == 2


def test_splits(tmp_path):
    for name, count in (("f.csv", 3), ("r.csv", 5), ("h.csv", 2)):
        write(tmp_path / name, [{"question": f"{name} {i}?", "answer": "A"} for i in range(count)])
    fields = {"path": str(tmp_path), "forget": "f.csv"}
    alone = Own(**fields)()
    assert (alone.retain, list(alone.evaluation)) == ((), ["forget"])
    whole = Own(**fields, retain="r.csv", holdout="h.csv", retain_rows=4, evaluation_rows=2)()
    assert (len(whole.forget), len(whole.retain)) == (3, 4)
    assert {split: len(rows) for split, rows in whole.evaluation.items()} == {"forget": 2, "retain": 2, "holdout": 2}


def test_paraphrases_are_joined_by_number_or_by_id(tmp_path, caplog):
    rows = [{"question": f"Q{i}", "answer": f"A{i}", "nr": f"n{i}"} for i in range(2)]
    again = [{"question": f"P{i}", "answer": f"B{i}", "nr": f"n{i}", "perturbed_answer": ["x", "y"]} for i in range(2)]
    fields = {"path": str(tmp_path), "forget": "f.csv", "paraphrase": "p.jsonl"}
    write(tmp_path / "f.csv", rows)
    write(tmp_path / "p.jsonl", again[::-1])
    by_id, by_number = Own(**fields, id="nr")().forget, Own(**fields)().forget
    assert [row.paraphrased_prompt for row in by_id] == ["P0", "P1"]
    assert [row.paraphrased_answer for row in by_number] == ["B1", "B0"]
    assert by_id[0].perturbed_answers == ("x", "y")
    tofu = [{"paraphrased_question": "T", "paraphrased_answer": "U", "perturbed_answer": "x"} | row for row in rows]
    write(tmp_path / "p.jsonl", tofu)
    (first, _) = Own(**fields)().forget
    assert (first.paraphrased_prompt, first.paraphrased_answer, first.perturbed_answers) == ("T", "U", ("x",))
    write(tmp_path / "p.jsonl", rows)
    assert Own(**fields)().forget[0].perturbed_answers == ()
    assert "data.paraphrase: no column perturbed_answer: no truth ratio and no choice accuracy" in caplog.messages
    write(tmp_path / "p.jsonl", rows[:1])
    assert said(tmp_path, **fields) == "F/p.jsonl, row 1 is the last: there is no paraphrase of 'forget/2'"
    write(tmp_path / "p.jsonl", [*rows, rows[0]])
    assert said(tmp_path, **fields) == "F/p.jsonl, row 3: there is no row 'forget/3' that it could be a paraphrase of"
    written(tmp_path / "d.csv", "text\nA whole text.\n")
    assert said(tmp_path, **fields | {"forget": "d.csv"}).endswith("allowed is null with documents")


def test_contract(tmp_path):
    check_data(Own(**EXAMPLE))
    texts = {name: f"text\nOne of {name}.\nTwo of {name}.\n" for name in ("f.csv", "r.csv")}
    for name, content in texts.items():
        written(tmp_path / name, content)
    check_data(Own(path=str(tmp_path), forget="f.csv", retain="r.csv"))
