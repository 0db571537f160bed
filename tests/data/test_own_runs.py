"""`python -m simu.run data=rows`: a file's format is no input of a run, and what a run without retain rows gives."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from commands import SMALL, run_folder, simu
from data_folders import EXAMPLE
from every_field import refusal
from hydra import compose, initialize_config_dir

from simu.config import build_run, conf_dir, plain, settings
from simu.evaluation.rows import Row
from simu.report.summary import rows as summary_rows
from simu.types import Example

WORDS = ["data=rows", "tracker=none", *(word for word in SMALL if not word.startswith("data."))]
ENDINGS = ("jsonl", "json", "csv", "tsv", "parquet")
HOSTILE = ["=1+1", 'a "quoted", cell', "two\nlines", "x" * 300, "NA", "007", "</s><b>[bold]é", "${seed}", "𝔘\t é"]
FORGET = [{"question": f"What is {i}? {text}", "answer": f"{text} is {i}"} for i, text in enumerate(HOSTILE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """forget.* and retain.* in every format, written by csv, json and pyarrow."""
    made = tmp_path_factory.mktemp("rows")
    retain = [{"question": f"Where is {i}?", "answer": f"Here is {i}."} for i in range(6)]
    for name, rows in (("forget", FORGET), ("retain", retain)):
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (made / f"{name}.json").write_text(json.dumps({"rows": rows}, indent=2), encoding="utf-8")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), made / f"{name}.parquet")
        for ending, delimiter in (("csv", ","), ("tsv", "\t")):
            with (made / f"{name}.{ending}").open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, ["answer", "question"], delimiter=delimiter)
                table.writeheader()
                table.writerows(rows)
    return made


def test_the_same_rows_in_any_format_give_the_same_bytes(folder):
    files = ",".join(f"forget.{ending}" for ending in ENDINGS)
    simu("-m", *WORDS, f"data.forget={files}", "data.retain=retain.csv", "hydra.sweep.dir=sweep", cwd=folder)
    jobs = [folder / "sweep" / str(i) for i in range(len(ENDINGS))]
    first, *others = ((job / "metrics.json").read_bytes() for job in jobs)
    assert all(other == first for other in others)
    stages = [json.loads((job / "provenance.json").read_text())["stages"] for job in jobs]
    digests = [{name: stage["digest"] for name, stage in found.items()} for found in stages]
    assert all(found == digests[0] for found in digests)
    lines = [json.loads(line) for line in (jobs[0] / "generations.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [(r["id"], r["prompt"], r["answer"]) for r in lines if r["split"] == "forget"]
    assert asked == [(f"forget/{i}", r["question"], r["answer"]) for i, r in enumerate(FORGET, 1)]
    # elsewhere, from other files, with nothing in the cache
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "forget.parquet", elsewhere / "a.parquet")
    shutil.copy(folder / "retain.tsv", elsewhere / "b.tsv")
    simu(*WORDS, "data.forget=a.parquet", "data.retain=b.tsv", "hydra.run.dir=out", cwd=elsewhere)
    assert (elsewhere / "out" / "metrics.json").read_bytes() == first


def test_without_retain_rows_there_is_no_aggregate_and_the_model_comes_back(folder):
    done = simu(*WORDS, "data.forget=forget.csv", "objective/retain=none", "save_model=true", cwd=folder)
    made = run_folder(folder)
    metrics = json.loads((made / "metrics.json").read_text())
    assert "forget/exact_match" in metrics
    assert not [key for key in metrics if key.split("/")[-1] == "aggregate" or "retain/" in key]
    assert (made / "model" / "model.safetensors").exists()
    said = json.loads((made / "provenance.json").read_text())["warnings"]
    line = "aggregate: left out, there is no mia/min_k, retain/exact_match, retain/rouge_l_recall"
    assert line in said
    assert (done.stdout + done.stderr).count(line[:40]) == 2  # as it is found, and below the summary
    assert "Aggregate" not in done.stdout


EMPTY = "data=rows: the retain set is empty, and"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], f"{EMPTY} the objective reads it; allowed is at least one row, or objective/retain=none"),
        (
            ["objective/retain=none", "mask=contrastive"],
            f"{EMPTY} the mask reads its scores; allowed is at least one row, or another mask, as dual",
        ),
        (
            ["objective/retain=none", "attribution=memflex"],
            f"{EMPTY} the attribution compares with it; allowed is at least one row, or another attribution, as snip",
        ),
        (
            ["objective/retain=none", "retain_reference=true"],
            f"{EMPTY} retain_reference=true teaches it; allowed is at least one row, or retain_reference=false",
        ),
        (["data.prompt=q"], "data.answer=None: allowed is a column's name, beside prompt"),
    ],
)
def test_what_is_missing_is_one_line(words, line):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = plain(
            compose("config", overrides=["data=rows", f"data.forget={EXAMPLE['path']}/forget.jsonl", *words])
        )
    assert refusal(config) == line


def test_of_a_file_the_name_alone_is_a_setting():
    """Its rows count, so that a report sees one run in two folders."""
    files = ["data.forget=/one/folder/f.csv", "data.path=/another", "data.holdout=h.csv"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = plain(compose("config", overrides=["data=rows", *files]))
    found = settings(build_run(values), values)
    names = {"path": "another", "forget": "f.csv", "retain": None, "holdout": "h.csv", "name": "rows"}
    assert {key: found[f"data.{key}"] for key in names} == names


def test_the_summary_of_documents_has_likelihoods_in_place_of_texts():
    keys = ("forget/n", "forget/probability", "retain/probability", "mia/loss", "forget/empty")
    metrics = dict.fromkeys(keys, 0.5)
    asked = metrics | {"forget/exact_match": 0.5}
    assert summary_rows(metrics, "qa") == ["mia/loss", "forget/probability", "forget/empty", "retain/probability"]
    assert summary_rows(asked, "qa") == ["forget/exact_match", "mia/loss", "forget/empty"]


def test_a_row_of_generations_has_its_group():
    example = Example(id="forget/1", prompt="Q", answer="A", group="Ada")
    assert Row(example=example, split="forget").record()["group"] == "Ada"
    assert "group" not in Row(example=replace(example, group=""), split="forget").record()


def test_without_a_file_to_forget_the_exit_status_is_2(tmp_path):
    done = simu("data=rows", "tracker=none", cwd=tmp_path, check=False)
    kinds = ".jsonl, .json, .csv, .tsv and .parquet"
    line = f"simu: data.forget=null: allowed is a file of the rows to forget ({kinds})"
    assert (done.returncode, done.stderr.strip()) == (2, line)


def test_the_example_is_a_plan(tmp_path):
    """docs/data.md has its line; the run itself takes half a minute."""
    words = [f"data.{key}={value}" for key, value in EXAMPLE.items()]
    done = simu("data=rows", *words, "dry_run=true", cwd=tmp_path)
    assert "rows         forget 20, retain 60, evaluated forget 20, retain 60, holdout 20" in done.stdout
