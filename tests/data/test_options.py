"""Every data option: the yaml spells every field with its default, and what it loads keeps the contract of Splits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from data_folders import EXAMPLE

from simu.config import build
from simu.data import digest
from simu.types import Example, Splits

ROOT = Path(__file__).parents[2]
OPTIONS = sorted((ROOT / "conf" / "data").glob("*.yaml"))


@pytest.fixture(params=OPTIONS, ids=lambda p: p.stem)
def option(request):
    """The option's fields, without a defaults list."""
    node = yaml.safe_load(request.param.read_text(encoding="utf-8"))
    node.pop("defaults", None)
    return request.param.stem, node


def test_yaml_spells_every_field_with_its_default(option):
    stem, node = option
    component = build(node, "data")
    assert component.name == stem
    assert {f.name for f in dataclasses.fields(component)} == set(node) - {"_target_"}
    assert component == type(component)()
    for key in ("path", "forget", "retain_rows", "evaluation_rows", "overlap"):
        assert key in node, "presets and sweeps compose over any data set"


def check_contract(splits: Splits):
    trained = splits.forget + splits.retain + splits.background
    ids = [row.id for row in trained]
    assert len(set(ids)) == len(ids)
    assert splits.forget
    assert splits.retain
    assert {"forget", "retain"} <= set(splits.evaluation)
    by_id = {row.id: row for row in trained}
    for split in ("forget", "retain"):
        # What is evaluated as known has been trained on, word for word.
        assert all(by_id[row.id] == row for row in splits.evaluation[split])
    assert not {r.id for r in splits.evaluation.get("holdout", ())} & set(ids)
    for rows in (trained, *splits.evaluation.values()):
        for row in rows:
            assert row.answer.strip()


def test_splits_keep_their_contract(option, request):
    stem, node = option
    if stem == "rows":
        node |= EXAMPLE
    elif stem != "mini":
        node["path"] = str(request.getfixturevalue(f"{stem}_dir"))
    splits = build(node, "data")()
    check_contract(splits)
    assert digest(splits.forget) == digest(build(node, "data")().forget)


def test_documented_own_data_set(tmp_path, monkeypatch):
    """The one file and one yaml of docs/data.md, as they stand there."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(# simu/data/notes.py.*?)```", text, re.DOTALL)[1]
    node = yaml.safe_load(re.search(r"```yaml\n(# conf/data/notes.yaml.*?)```", text, re.DOTALL)[1])
    import simu.data

    (tmp_path / "notes.py").write_text(code)
    monkeypatch.setattr(simu.data, "__path__", [*simu.data.__path__, str(tmp_path)])
    for name, count in (("forget", 2), ("retain", 3), ("holdout", 2)):
        lines = [f'{{"question": "{name} {i}?", "answer": "answer {i} of {name}"}}' for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    assert node.pop("path") is not None
    splits = build(node | {"path": str(tmp_path)}, "data")()
    check_contract(splits)
    assert [len(rows) for rows in splits.evaluation.values()] == [2, 3, 2]


def test_digest_by_hand():
    """Against the canonical JSON written out, hashed by another call."""
    import hashlib

    line = (
        '{"answer":"\\u00e9","group":"","id":"a","paraphrased_answer":null,"paraphrased_prompt":null,'
        '"perturbed_answers":["x"],"prompt":"q"}\n'
    )
    row = Example(id="a", prompt="q", answer="é", perturbed_answers=("x",))
    assert digest([row]) == hashlib.sha256(line.encode()).hexdigest()
    assert digest([row, row]) != digest([row])
    assert digest([]) == hashlib.sha256().hexdigest()


def test_digest_sees_every_field_and_the_order():
    row = Example(id="a", prompt="q", answer="b")
    texts = {"group", "id", "prompt", "answer", "paraphrased_prompt", "paraphrased_answer"}
    others = [dataclasses.replace(row, **{f: "z"}) for f in texts] + [
        dataclasses.replace(row, perturbed_answers=("z",))
    ]
    assert len({digest([r]) for r in (row, *others)}) == len(dataclasses.fields(Example)) + 1
    assert digest([row, others[0]]) != digest([others[0], row])
