from __future__ import annotations

import json
from collections import Counter
from statistics import mean

import huggingface_hub.constants
import huggingface_hub.errors
import pyarrow
import pyarrow.parquet
import pytest
from benchmark_rows import by_task, lume_documents, lume_public, lume_rows

from simu.data import digest, lume
from simu.data.lume import Lume, document_id, kind
from simu.types import Example, FieldError, UserError

FOLDS = ("train", "validation", "heldout")


def tally(rows):
    return Counter((row.group, kind(row.id)) for row in rows)


def sizes(splits):
    return {name: len(rows) for name, rows in splits.evaluation.items()}


def test_heldout_is_the_papers_fold(lume_dir):
    splits, documents = Lume(path=str(lume_dir))(), lume_documents(lume_dir)
    assert (len(splits.forget), len(splits.retain)) == lume_rows(lume_dir)["heldout"]
    assert tally(splits.forget) == by_task(documents["forget"])
    assert tally(splits.retain) == by_task(documents["retain"])
    members = documents["forget"][2]
    assert sizes(splits) == {
        "forget": len(splits.forget),
        "retain": len(splits.retain),
        "mia_member": members,
        "mia_nonmember": members,
    }


@pytest.mark.parametrize("fold", ["train", "validation", "all"])
def test_other_folds(lume_dir, fold):
    splits = Lume(path=str(lume_dir), fold=fold, mia_set="public")()
    forget, retain = lume_rows(lume_dir)[fold]
    members, others = lume_public(lume_dir)
    assert (len(splits.forget), len(splits.retain)) == (forget, retain)
    assert sizes(splits) == {"forget": forget, "retain": retain, "mia_member": members, "mia_nonmember": others}


def test_rows_are_the_files_rows(lume_dir):
    raw = [json.loads(line) for line in (lume_dir / "forget.jsonl").open(encoding="utf-8")]
    rows = Lume(path=str(lume_dir), fold="all", mia_set="public")().forget
    assert [(r["id"], r["input"], r["output"], r["task"]) for r in raw] == [
        (e.id, e.prompt, e.answer, e.group) for e in rows
    ]


def test_ids():
    assert document_id('"8f24-c511"sc1') == '"8f24-c511"'
    assert (document_id("36307590qa0"), kind("36307590qa0")) == ("36307590", "qa0")
    assert (document_id("c1qa2sc1"), kind("c1qa2sc1")) == ("c1qa2", "sc1")
    with pytest.raises(ValueError, match="no LUME id"):
        kind("36307590")


def test_public_members_are_whole_documents_of_the_train_fold(lume_dir):
    splits = Lume(path=str(lume_dir), fold="train", mia_set="public")()
    texts = {f"{r.prompt} {r.answer}" for r in splits.forget if kind(r.id) == "sc1"}
    assert all(row.prompt == "" and row.answer in texts for row in splits.evaluation["mia_member"])
    assert not any(row.answer in texts for row in splits.evaluation["mia_nonmember"])
    assert {row.group for row in splits.evaluation["mia_member"]} == {"public"}


def test_fold_set_is_disjoint_and_matched_by_length(lume_dir):
    whole = Lume(path=str(lume_dir), fold="all", mia_set="public")()
    for fold in ("train", "validation", "heldout"):
        splits = Lume(path=str(lume_dir), fold=fold)()
        member, other = splits.evaluation["mia_member"], splits.evaluation["mia_nonmember"]
        trained = {f"{r.prompt} {r.answer}" for r in splits.forget + splits.retain if r.group == "Task3"}
        known = {f"{r.prompt} {r.answer}" for r in whole.forget + whole.retain if r.group == "Task3"}
        assert {r.answer for r in member} <= trained
        assert {r.answer for r in other} <= known - trained
        assert len({r.id for r in member + other}) == 2 * len(member)
        gaps = [abs(len(a.answer) - len(b.answer)) for a, b in zip(member, other, strict=True)]
        assert mean(gaps) < 0.02 * mean(len(r.answer) for r in member)


def test_matching_is_the_best_there_is():
    """By brute force over all assignments, where the greedy nearest match is not the best."""
    from itertools import permutations

    def doc(i, length):
        return Example(id=f"{i}sc1", prompt="x" * (length - 2), answer="y", group="Task3")

    members, others = [doc(i, n) for i, n in enumerate((50, 60))], [doc(i, n) for i, n in enumerate((59, 70, 20), 10)]
    inside, outside = lume.matched_documents(members, others)
    lengths = [(50, 60), (59, 70, 20)]
    best = min(sum(abs(a - b) for a, b in zip(lengths[0], p, strict=True)) for p in permutations(lengths[1], 2))
    assert sum(abs(len(a) - len(b)) for (_, a), (_, b) in zip(inside, outside, strict=True)) == best == 19


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A fold and side has 60, 48 and 72 documents of the three tasks: 120 + 288 + 144 rows."""
    folder = tmp_path_factory.mktemp("lume")
    (folder / "folds").mkdir()
    for side in ("forget", "retain"):
        rows = []
        for fold in FOLDS:
            names = [f"{side[0]}{fold[0]}{task}-{i}-" for task, n in ((1, 60), (2, 48), (3, 72)) for i in range(n)]
            (folder / "folds" / f"{side}_{fold}.txt").write_text("\n".join(names))
            for name in names:
                kinds = ("sc1", *(f"qa{k}" for k in range(5 if name[2] == "2" else 1)))
                cells = {"input": f"In {name}", "output": "Out", "task": f"Task{name[2]}"}
                rows += [json.dumps(cells | {"id": name + kind}) for kind in kinds]
        (folder / f"{side}.jsonl").write_text("\n".join(rows))
    return folder


def test_members_are_what_the_model_saw(many):
    """With a subset, documents that were left out of training are no members."""
    splits = Lume(path=str(many), forget_rows=100)()
    trained = {document_id(r.id) for r in splits.forget if r.group == "Task3"}
    assert {r.id.removeprefix("mia_member/") for r in splits.evaluation["mia_member"]} == trained
    assert 0 < len(trained) < 72


def test_files_set(lume_dir, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"document": "Möbius  lived"}\n')
    (tmp_path / "out.jsonl").write_text('{"id": "d7", "document": "B"}\n{"document": "C"}\n')
    files = {"mia_member_file": str(tmp_path / "in.jsonl"), "mia_nonmember_file": str(tmp_path / "out.jsonl")}
    splits = Lume(path=str(lume_dir), fold="all", mia_set="files", **files)()
    assert [r.answer for r in splits.evaluation["mia_member"]] == ["Möbius  lived"]
    assert [r.id for r in splits.evaluation["mia_nonmember"]] == ["mia_nonmember/d7", "mia_nonmember/1"]
    (tmp_path / "in.jsonl").write_text('{"id": null, "document": "A"}\n{"id": null, "document": "B"}\n')
    assert [d for _, d in lume.documents(tmp_path / "in.jsonl")] == ["A", "B"]
    (tmp_path / "in.jsonl").write_text('{"id": 3, "document": "A"}\n{"id": "3", "document": "B"}\n')
    with pytest.raises(UserError, match=r"in.jsonl, row 2: field 'id' '3' stands in an earlier row"):
        Lume(path=str(lume_dir), fold="all", mia_set="files", **files)()
    (tmp_path / "in.jsonl").write_text('{"text": "A"}\n')
    with pytest.raises(UserError, match=r"in.jsonl, row 1: no field 'document'; it has text"):
        Lume(path=str(lume_dir), fold="all", mia_set="files", **files)()


def test_subset_keeps_documents_whole_and_the_shares_of_tasks(many):
    whole = Lume(path=str(many))()
    splits = Lume(path=str(many), forget_rows=200, retain_rows=50)()
    assert 200 <= len(splits.forget) <= 205
    assert 50 <= len(splits.retain) <= 55
    of_document = Counter(document_id(r.id) for r in whole.forget)
    assert all(of_document[d] == n for d, n in Counter(document_id(r.id) for r in splits.forget).items())
    for task, rows in (("Task1", 120), ("Task2", 288), ("Task3", 144)):
        assert abs(sum(r.group == task for r in splits.forget) / len(splits.forget) - rows / 552) < 0.03
    assert set(splits.forget) < set(whole.forget)


def test_evaluation_cap_and_one_task(lume_dir):
    splits = Lume(path=str(lume_dir), forget="Task2", mia_set="public", evaluation_rows=2)()
    assert len(splits.forget) == 6 * lume_documents(lume_dir)["forget"][1]
    assert {r.group for r in splits.forget} == {"Task2"}
    assert len(splits.retain) == lume_rows(lume_dir)["heldout"][1]
    assert sizes(splits) == dict.fromkeys(("forget", "retain", "mia_member", "mia_nonmember"), 2)


@pytest.mark.parametrize(("seam", "text"), [("space", "in out"), ("official", "inout")])
def test_seam(folder, seam, text):
    template = Lume(path=str(folder), seam=seam)().template
    assert template.render("in") + template.separator + "out" == text


def row(i, task="Task3", which="sc1"):
    return {"id": f"d{i}{which}", "input": f"In {i}", "output": f"Out {i}", "task": task}


@pytest.fixture
def folder(tmp_path):
    """Two documents a fold and side."""
    (tmp_path / "folds").mkdir()
    for side, first in (("forget", 0), ("retain", 100)):
        rows = [row(first + i) for i in range(6)]
        (tmp_path / f"{side}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for k, fold in enumerate(FOLDS):
            (tmp_path / "folds" / f"{side}_{fold}.txt").write_text(f"d{first + 2 * k}\nd{first + 2 * k + 1}\n")
    return tmp_path


def test_smallest_folder(folder):
    splits = Lume(path=str(folder))()
    assert [r.id for r in splits.forget] == ["d4sc1", "d5sc1"]
    assert [r.answer for r in splits.evaluation["mia_member"]] == ["In 4 Out 4", "In 5 Out 5"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": "d3"}, "field 'id' must end with sc1 or qa<digit>, is 'd3'"),
        ({"id": "d0sc1"}, "stands in an earlier row"),
        ({"task": "Task4"}, "field 'task' must be one of Task1, Task2, Task3, is 'Task4'"),
        ({"output": "\n"}, "field 'output' is empty"),
        ({"input": 3}, "field 'input' must be a text, is int 3"),
    ],
)
def test_bad_row_is_named(folder, changes, says):
    rows = [row(i) for i in range(6)]
    rows[3] |= changes
    (folder / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError) as error:
        Lume(path=str(folder))()
    assert str(error.value).startswith(f"{folder / 'forget.jsonl'}, row 4: ")
    assert says in str(error.value)


def test_fold_files_are_checked(folder):
    path = folder / "folds" / "forget_heldout.txt"
    path.write_text("d4\nd77\n")
    with pytest.raises(UserError, match=r"forget_heldout.txt: no document d77 in forget.jsonl"):
        Lume(path=str(folder))()
    path.write_text("\n")
    with pytest.raises(UserError, match=r"forget_heldout.txt: no document ids"):
        Lume(path=str(folder))()
    path.unlink()
    with pytest.raises(UserError, match=r"no folds/forget_heldout.txt there; .* holds forget_train.txt"):
        Lume(path=str(folder))()
    with pytest.raises(UserError, match=r"no mia/member.jsonl there"):
        Lume(path=str(folder), fold="train", mia_set="public")()


def test_too_few_documents_to_match(folder):
    rows = [row(i) for i in range(6)]
    (folder / "forget.jsonl").write_text("\n".join(map(json.dumps, rows[:2] + [row(i, "Task1") for i in range(2, 6)])))
    (folder / "retain.jsonl").write_text("\n".join(json.dumps(row(100 + i, "Task2")) for i in range(6)))
    with pytest.raises(UserError, match=r"data.mia_set=fold: 2 Task3 documents to forget and 0 of other folds"):
        Lume(path=str(folder), fold="train")()


@pytest.fixture
def hub_copy(folder, tmp_path_factory):
    """The same rows as the hub lays them out: Parquet by side and fold, train and validation only."""
    copy = tmp_path_factory.mktemp("hub")
    (copy / "data").mkdir()
    (copy / "mia_data").mkdir()
    for k, fold in enumerate(("train", "validation")):
        for side, first in (("forget", 0), ("retain", 100)):
            table = pyarrow.Table.from_pylist([row(first + 2 * k + i) for i in range(2)])
            pyarrow.parquet.write_table(table, copy / "data" / f"{side}_{fold}-00000-of-00001.parquet")
    for name in ("member", "nonmember"):
        (copy / "mia_data" / f"{name}.jsonl").write_text(f'{{"id": "m", "document": "{name}"}}\n')
    return copy


@pytest.mark.parametrize("fold", ["train", "validation"])
def test_hub_copy_equals_the_folder(folder, hub_copy, fold):
    here, there = Lume(path=str(folder), fold=fold)(), Lume(path=str(hub_copy), fold=fold)()
    assert digest(here.forget + here.retain) == digest(there.forget + there.retain)
    assert len(there.evaluation["mia_nonmember"]) == 2
    public = Lume(path=str(hub_copy), fold=fold, mia_set="public")()
    assert [r.answer for r in public.evaluation["mia_member"]] == ["member"]


def test_hub_lacks_the_papers_fold(hub_copy):
    with pytest.raises(UserError, match=r"data.fold=heldout: the hub's copy has the folds train and validation only"):
        Lume(path=str(hub_copy))()


def test_hub_is_fetched_as_a_folder(hub_copy, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(hub_copy))
    assert len(Lume(fold="train")().forget) == 2

    def refuse(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("not\nhere")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match="semeval25-unlearning-dataset-public cannot be had") as error:
        Lume(fold="train")()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"forget_rows": 0}, "forget_rows"),
        ({"retain_rows": 0}, "retain_rows"),
        ({"evaluation_rows": 0}, "evaluation"),
        ({"fold": "all"}, "mia_set"),
        ({"forget": "Task1"}, "mia_set"),
        ({"mia_set": "files"}, "mia_member_file"),
        ({"mia_member_file": "x"}, "mia_member_file"),
    ],
)
def test_ranges(fields, name):
    with pytest.raises(FieldError, match=f"^{name}"):
        Lume(**fields)


def test_forget_offset_is_folds_back(lume_dir):
    shown = Lume(path=str(lume_dir))()
    for offset, fold in ((1, "validation"), (2, "train")):
        back, there = Lume(path=str(lume_dir), forget_offset=offset)(), Lume(path=str(lume_dir), fold=fold)()
        assert (len(back.forget), len(back.retain)) == lume_rows(lume_dir)[fold]
        assert back == there
        assert not {r.id for r in back.forget} & {r.id for r in shown.forget}
    for fold, offset in (("heldout", 3), ("train", 1), ("all", 1)):
        with pytest.raises(FieldError, match=f"forget_offset={offset}: allowed is "):
            Lume(fold=fold, forget_offset=offset, mia_set="public")
