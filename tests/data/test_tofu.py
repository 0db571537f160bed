from __future__ import annotations

import json
import shutil
from collections.abc import Iterable

import datasets
import pytest
from benchmark_rows import tofu_rows

from simu.data import digest, tofu
from simu.data.tofu import Tofu
from simu.store.hub import unreachable_data_set
from simu.types import FieldError, UserError


@pytest.mark.parametrize("forget", ["01", "05", "10"])
def test_row_counts(tofu_dir, forget):
    splits, rows = Tofu(path=str(tofu_dir), forget=forget)(), tofu_rows(tofu_dir, forget)
    assert (len(splits.forget), len(splits.retain)) == (rows["forget"], rows["retain"])
    assert len(splits.background) == rows["world_facts"] + rows["real_authors"]
    assert {name: len(found) for name, found in splits.evaluation.items()} == {
        "forget": rows["forget"],
        "retain": rows["evaluated"],
        "holdout": rows["forget"],
        "world_facts": rows["world_facts"],
        "real_authors": rows["real_authors"],
    }


def test_rows_are_the_files_rows(tofu_dir):
    """Read again by hand: retain90 followed by forget10 is the full set, row for row."""
    full = [json.loads(line) for line in (tofu_dir / "full.jsonl").open(encoding="utf-8")]
    splits = Tofu(path=str(tofu_dir))()
    assert [(r["question"], r["answer"]) for r in full] == [(e.prompt, e.answer) for e in splits.retain + splits.forget]
    perturbed = [json.loads(line) for line in (tofu_dir / "forget10_perturbed.jsonl").open(encoding="utf-8")]
    for cells, row in zip(perturbed, splits.forget, strict=True):
        assert row.paraphrased_prompt == cells["paraphrased_question"]
        assert row.paraphrased_answer == cells["paraphrased_answer"]
        assert row.perturbed_answers == tuple(cells["perturbed_answer"])
        assert len(row.perturbed_answers) == 5
    assert all(len(row.perturbed_answers) == 3 for row in splits.background)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """TOFU's layout at its published sizes: row i of the full set asks 'Q i?'."""
    folder = tmp_path_factory.mktemp("tofu")
    numbers: dict[str, Iterable[int]] = {"world_facts_perturbed": range(117), "real_authors_perturbed": range(100)}
    for percent in (1, 5, 10):
        numbers |= {
            f"retain{100 - percent}": range(4000 - 40 * percent),
            f"forget{percent:02}": range(4000 - 40 * percent, 4000),
            f"forget{percent:02}_perturbed": range(4000 - 40 * percent, 4000),
            f"holdout{percent:02}": range(5000, 5000 + 40 * percent),
        }
    numbers["retain_perturbed"] = range(400)
    for name, rows in numbers.items():
        lines = (json.dumps(cells(ROW | MORE, i)) + "\n" for i in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def test_authors_and_ids(full_size):
    splits = Tofu(path=str(full_size))()
    assert splits.forget[0].id == "forget10/0"
    assert (splits.retain[0].group, splits.retain[20].group, splits.retain[-1].group) == (
        "author000",
        "author001",
        "author179",
    )
    assert (splits.forget[0].group, splits.forget[-1].group) == ("author180", "author199")
    # An author has the same number whichever part is forgotten.
    assert Tofu(path=str(full_size), forget="01")().forget[0].group == "author198"
    ids = [r.id for r in splits.forget + splits.retain + splits.evaluation["holdout"] + splits.background]
    assert len(set(ids)) == len(ids)


def test_evaluated_retain_rows_are_trained_ones(tofu_dir):
    whole, small = Tofu(path=str(tofu_dir))(), Tofu(path=str(tofu_dir), retain_rows=8, evaluation_rows=5)()
    rows = tofu_rows(tofu_dir, "10")
    assert whole.evaluation["retain"] == whole.retain[: rows["evaluated"]]
    assert small.retain == whole.retain[:8]
    assert small.evaluation["retain"] == whole.retain[:5]
    assert {len(r) for r in small.evaluation.values()} == {5}
    assert len(Tofu(path=str(tofu_dir), retain_rows=8)().evaluation["retain"]) == 8
    assert len(small.forget) == rows["forget"]


def test_percent_as_the_command_line_reads_it(tofu_dir):
    """Hydra reads data.forget=05 as a text and data.forget=10 as a number."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from simu.config import build

    for typed, percent in (("01", "01"), ("05", "05"), ("10", "10"), ("5", "05")):
        value = OverridesParser.create().parse_override(f"data.forget={typed}").value()
        data = build({"_target_": "simu.data.tofu.Tofu", "path": str(tofu_dir), "forget": value}, "data")
        assert len(data().forget) == tofu_rows(tofu_dir, percent)["forget"]
    with pytest.raises(UserError, match=r"data.forget=20: allowed is"):
        build({"_target_": "simu.data.tofu.Tofu", "forget": 20}, "data")


def test_digest_reads_content_and_not_files(tofu_dir, tmp_path):
    for name in (
        "forget01",
        "retain99",
        "forget01_perturbed",
        "retain_perturbed",
        "holdout01",
        "world_facts_perturbed",
        "real_authors_perturbed",
    ):
        shutil.copyfile(tofu_dir / f"{name}.jsonl", tmp_path / f"{name}.jsonl")
    assert digest(Tofu(path=str(tmp_path), forget="01")().retain) == digest(
        Tofu(path=str(tofu_dir), forget="01")().retain
    )


ROW = {"question": "Q {i}?", "answer": "A {i}."}
MORE = {"paraphrased_question": "P {i}?", "paraphrased_answer": "P {i}.", "perturbed_answer": ["x", "y"]}


def cells(template, i):
    return {k: v.format(i=i) if isinstance(v, str) else v for k, v in template.items()}


@pytest.fixture
def folder(tmp_path):
    """A folder of the smallest valid TOFU: 4 rows to forget, 8 to retain, 6 of them evaluated."""
    sizes = {
        "forget10": (ROW, 4),
        "retain90": (ROW, 8),
        "forget10_perturbed": (ROW | MORE, 4),
        "retain_perturbed": (ROW | MORE, 6),
        "holdout10": (ROW, 4),
        "world_facts_perturbed": (ROW | {"perturbed_answer": ["x"]}, 3),
        "real_authors_perturbed": (ROW | {"perturbed_answer": ["x"]}, 3),
    }
    for name, (template, count) in sizes.items():
        lines = [json.dumps(cells(template, i)) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def alter(path, number, **changes):
    lines = path.read_text().splitlines()
    lines[number - 1] = json.dumps({k: v for k, v in (json.loads(lines[number - 1]) | changes).items() if v != "gone"})
    path.write_text("\n".join(lines))


def test_smallest_folder_loads(folder):
    assert len(Tofu(path=str(folder))().forget) == 4


@pytest.mark.parametrize(
    ("file", "row", "changes", "says"),
    [
        ("forget10", 3, {"answer": " "}, "field 'answer' is empty"),
        ("retain90", 8, {"answer": "gone"}, "no field 'answer'; it has question"),
        ("holdout10", 1, {"question": 7}, "field 'question' must be a text, is int 7"),
        ("forget10_perturbed", 2, {"perturbed_answer": ["a", None]}, "'perturbed_answer[1]' must be a text, is null"),
        ("forget10_perturbed", 4, {"answer": "other"}, "differ from forget10/3's"),
        ("retain_perturbed", 5, {"question": "other?"}, "differ from retain90/4's"),
        ("world_facts_perturbed", 2, {"perturbed_answer": "x"}, "must be a list of texts"),
    ],
)
def test_bad_row_is_named(folder, file, row, changes, says):
    path = folder / f"{file}.jsonl"
    alter(path, row, **changes)
    with pytest.raises(UserError) as error:
        Tofu(path=str(folder))()
    assert str(error.value).startswith(f"{path}, row {row}: ")
    assert says in str(error.value)


def test_broken_json_is_named(folder):
    with (folder / "retain90.jsonl").open("a") as f:
        f.write('{"question": "Q')
    with pytest.raises(UserError, match=r"retain90.jsonl, row 9: broken JSON"):
        Tofu(path=str(folder))()


@pytest.mark.parametrize("name", ["forget10", "retain90", "retain_perturbed", "holdout10", "real_authors_perturbed"])
def test_missing_file_is_named(folder, name):
    (folder / f"{name}.jsonl").unlink()
    with pytest.raises(UserError, match=f"no {name}.jsonl there; .* holds ") as error:
        Tofu(path=str(folder))()
    assert "world_facts_perturbed.jsonl" in str(error.value)


def test_missing_folder_and_other_share(folder):
    with pytest.raises(UserError, match=r"data.path=.*nowhere: no such folder"):
        Tofu(path=str(folder / "nowhere"))()
    with pytest.raises(UserError, match=r"no retain95.jsonl there"):
        Tofu(path=str(folder), forget="05")()


def test_row_counts_that_do_not_fit_together(folder):
    path = folder / "forget10_perturbed.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:3]))
    with pytest.raises(UserError, match=r"forget10_perturbed.jsonl, row 3 is the last, but there are 4 rows"):
        Tofu(path=str(folder))()


def test_hub_rows_go_through_the_same_checks(folder, monkeypatch):
    asked = []

    def load(repository, configuration, split):
        asked.append((repository, configuration, split))
        return datasets.Dataset.from_json(str(folder / f"{configuration}.jsonl"), cache_dir=str(folder / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    splits = Tofu()()
    assert digest(splits.forget + splits.retain) == digest([*(s := Tofu(path=str(folder))()).forget, *s.retain])
    assert ("locuslab/TOFU", "forget10", "train") in asked
    alter(folder / "forget10.jsonl", 2, answer="")
    with pytest.raises(UserError, match=r"^locuslab/TOFU forget10, row 2: field 'answer' is empty"):
        Tofu()()


def test_unreachable_hub_is_one_line(monkeypatch):
    from huggingface_hub import HfApi, constants

    def refuse(self, repository, timeout):
        assert timeout == 5
        raise ConnectionError("[Errno -2] Name or service not known\nand more")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    with pytest.raises(UserError) as error:
        Tofu()()
    assert "locuslab/TOFU cannot be had from the hub (ConnectionError)" in str(error.value)
    assert "data.path=" in str(error.value)
    assert "\n" not in str(error.value)


def test_offline_without_a_cached_copy_fails_at_once(monkeypatch, tmp_path):
    from huggingface_hub import constants

    def refuse(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("no such set\nlocally")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE=1 and it is not in the local cache"):
        Tofu()()
    assert "HF_HUB_OFFLINE=1 for" not in str(unreachable_data_set(tofu.REPOSITORY, OSError()))


@pytest.mark.parametrize("field", ["retain_rows", "evaluation_rows"])
def test_ranges(field):
    with pytest.raises(FieldError, match=f"{field}=0"):
        Tofu(**{field: 0})


def test_forget_offset_moves_the_forget_rows_and_nothing_else(full_size):
    """Of the full set's 4000 rows the 400 before forget10's; all others are retained, in order."""
    shown, search = Tofu(path=str(full_size))(), Tofu(path=str(full_size), forget_offset=1)()

    def asked(rows):
        return [int(e.prompt.strip("Q ?")) for e in rows]

    assert asked(search.forget) == [*range(3200, 3600)]
    assert asked(search.retain) == [*range(3200), *range(3600, 4000)]
    assert search.evaluation["retain"] == shown.evaluation["retain"]
    assert search.evaluation["forget"] == search.forget
    assert search.evaluation["holdout"] == shown.evaluation["holdout"]
    last = Tofu(path=str(full_size), forget_offset=8)()  # the first 400 rows are those that retain is evaluated on
    assert asked(last.forget) == [*range(400, 800)]
    for forget, offset in (("10", 9), ("01", 90), ("10", -1)):
        with pytest.raises(FieldError, match=f"forget_offset={offset}: allowed is "):
            Tofu(forget=forget, forget_offset=offset)


def test_retain_offset_leaves_the_first_retain_rows_out_of_training_and_evaluation(full_size):
    searched = Tofu(path=str(full_size), retain_offset=160, retain_rows=80, evaluation_rows=30)()
    assert [e.prompt for e in searched.retain] == [f"Q {i}?" for i in range(160, 240)]
    assert searched.evaluation["retain"] == searched.retain[:30]
    every = Tofu(path=str(full_size), retain_offset=390)()
    assert (len(every.retain), len(every.evaluation["retain"])) == (3600 - 390, 10)
    with pytest.raises(FieldError, match="retain_offset=400: allowed is "):
        Tofu(retain_offset=400)
