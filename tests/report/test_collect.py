"""Runs are found by what they hold and known by their config; what cannot be used is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from simu.report.collect import collect, read
from simu.report.estimate import over_seeds, rows_scored
from simu.report.groups import group, originals
from simu.report.run import Run
from simu.report.tables import paper_tables
from simu.types import UserError


def reasons(paths) -> dict[str, str]:
    return {skipped.path.name: skipped.reason for skipped in collect(paths)[1]}


def test_every_run_of_nested_sweeps_is_found_once(sweeps):
    runs, skipped = collect([sweeps, sweeps / "mini", sweeps / "mini" / "table1" / "0"])
    assert len(runs) == len(list(sweeps.rglob("provenance.json"))) == 22 + 2 * 19
    assert skipped == []


def test_unusable_runs_are_named_and_the_rest_is_read(tmp_path, make_run):
    good = make_run(tmp_path / "good")
    for name in ("cut", "unread", "old", "unknown", "failed", "going", "bare", "no_settings", "no_metrics"):
        shutil.copytree(good, tmp_path / name)
    (tmp_path / "cut" / "metrics.json").write_text((good / "metrics.json").read_text()[:50])
    (tmp_path / "unread" / "provenance.json").write_text('{"schema": 2, "sta')
    (tmp_path / "bare" / "provenance.json").unlink()
    (tmp_path / "no_metrics" / "metrics.json").unlink()
    change = {
        "old": {"schema": 1},
        "unknown": {"schema": None},
        "going": {"status": "running"},
        "no_settings": {"settings": None, "benchmark": 3},
        "failed": {"status": "failed", "reason": "loss is\nnan at step 3"},
    }
    for name, values in change.items():
        record = json.loads((good / "provenance.json").read_text()) | values
        (tmp_path / name / "provenance.json").write_text(json.dumps(record))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").write_text("")

    paths = [tmp_path, tmp_path / "missing", tmp_path / "empty", tmp_path / "a_file"]
    runs, _ = collect(paths)
    said = reasons(paths)
    assert [run.path.name for run in runs] == ["good"]
    assert set(said) == {*change, "cut", "unread", "bare", "no_metrics", "missing", "empty", "a_file"}
    assert said["old"] == "schema 1: this report reads schema 2; rerun"
    assert said["no_settings"].endswith("provenance.json has no settings, benchmark")
    assert said["failed"] == "failed: loss is nan at step 3"
    assert said["missing"] == "no such folder"
    assert said["a_file"] == "not a folder"
    assert "no run in it" in said["empty"]
    assert all("\n" not in reason for reason in said.values())
    assert all(said[name].startswith("half-written") for name in ("cut", "unread", "bare", "no_settings", "no_metrics"))


def test_no_usable_run_at_all_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"no finished run under .*no such folder"):
        collect([tmp_path / "nowhere"])


def test_where_nothing_is_usable_every_reason_is_said(tmp_path, make_run, capsys):
    from simu.report.__main__ import main

    (make_run(tmp_path / "cut") / "metrics.json").write_text("{")
    assert main([str(tmp_path), str(tmp_path / "missing"), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "cut: half-written: metrics.json is not whole JSON" in lines[0]
    assert lines[1].endswith("missing: no such folder")
    assert lines[2].startswith("simu.report: no finished run under")


def test_links_are_followed_once_and_loops_end(tmp_path, make_run):
    make_run(tmp_path / "elsewhere" / "run")
    (tmp_path / "sweep" / "inner").mkdir(parents=True)
    (tmp_path / "sweep" / "linked").symlink_to(tmp_path / "elsewhere" / "run")
    (tmp_path / "sweep" / "again").symlink_to(tmp_path / "elsewhere" / "run")
    (tmp_path / "sweep" / "inner" / "up").symlink_to(tmp_path / "sweep")
    (tmp_path / "sweep" / "itself").symlink_to("itself")
    (tmp_path / "sweep" / "dangling").symlink_to("/nonexistent")
    runs, skipped = collect([tmp_path / "sweep"])
    assert [run.path.name for run in runs] == ["again"]
    assert skipped == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, make_run, monkeypatch):
    make_run(tmp_path / "good")
    locked = tmp_path / "locked"
    locked.mkdir()
    listdir = os.listdir

    def denied(path):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", denied)  # a test may run as root, who reads everything
    runs, skipped = collect([tmp_path])
    assert len(runs) == 1
    assert [(s.path, s.reason) for s in skipped] == [(locked, "cannot be listed: Permission denied")]


def test_metrics_that_are_no_numbers_are_named_and_the_others_count(tmp_path, make_run):
    for seed, value in enumerate((0.2, 0.4, float("nan"))):
        folder = make_run(tmp_path / str(seed), seed=seed)
        metrics = json.loads((folder / "metrics.json").read_text()) | {"aggregate": value}
        (folder / "metrics.json").write_text(json.dumps(metrics))  # NaN, as Python writes it
    (g,) = group(collect([tmp_path])[0])
    assert [run.broken for run in g.runs] == [
        {},
        {},
        {"metrics.json": "no number for aggregate (nan); the other metrics count"},
    ]
    found, whole = g.estimate("aggregate"), g.estimate("forget/exact_match")
    assert found is not None
    assert whole is not None
    assert (found.mean, found.seeds, whole.seeds, g.seeds) == (pytest.approx(0.3), 2, 3, 3)
    (table,) = (t for t in paper_tables([g], []) if t.name == "table1")
    assert any("aggregate of simu" in note and "over 2 of 3 seeds" in note for note in table.notes)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("generations.jsonl", '{"split": "forget", "id": "a"}\n{"split": "for', "line 2 is not JSON"),
        ("generations.jsonl", "[]\n", "line 1 is no object with split, id"),
        ("generations.jsonl", "\udcff", "not UTF-8"),
        ("train_log.jsonl", '{"step": 1}\n{"lr": 1}\n', "line 2 is no object with step"),
        ("attribution.safetensors", "broken", "cannot be read"),
    ],
)
def test_a_broken_file_of_a_run_is_named_and_the_rest_of_the_report_is_made(
    tmp_path, make_run, capsys, file, content, said
):
    from simu.report.__main__ import main

    run = make_run(tmp_path / "run")
    (run / file).write_bytes(content.encode(errors="surrogateescape"))
    assert main([str(run), "--quiet", "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    line = next(line for line in err.replace("\r", "\n").splitlines() if "left out" in line)
    assert line.startswith(f"left out {run / file}: ")
    assert said in line
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'id="table1"' in page
    assert 'id="skipped"' in page


@pytest.mark.parametrize(
    "record",
    [
        {"git": "x", "machine": [1], "versions": "y", "stages": ["a"], "mask": "z", "finished": 3},
        {"git": None, "machine": None, "versions": None, "stages": None, "mask": {"total": "a", "selected": []}},
    ],
)
def test_odd_provenance_stops_no_report(tmp_path, make_run, record):
    from simu.report.__main__ import main

    run = make_run(tmp_path / "run")
    provenance = json.loads((run / "provenance.json").read_text()) | record
    (run / "provenance.json").write_text(json.dumps(provenance))
    assert main([str(run), "--quiet", "--out", str(tmp_path / "out"), "--no-figures"]) == 0


def test_settings_of_speed_and_memory_tell_no_two_runs_apart(tmp_path, make_run, edit):
    for seed, training in enumerate(({"micro_batch_tokens": 1024}, {"micro_batch_tokens": 64, "checkpoint_every": 5})):
        edit(make_run(tmp_path / str(seed), seed=seed), switches={"training": training})
    (g,) = group(collect([tmp_path])[0])
    assert g.seeds == 2


def test_settings_that_follow_the_seed_tell_no_two_runs_apart_and_others_do(tmp_path, make_run, edit):
    for seed in range(2):
        edit(make_run(tmp_path / str(seed), seed=seed), settings={"data.seed": seed})
    assert [g.seeds for g in group(collect([tmp_path])[0])] == [1, 1]
    for seed in range(2):
        edit(tmp_path / str(seed), seeded=["mask.seed", "data.seed"])
    (g,) = group(collect([tmp_path])[0])
    assert g.seeds == 2
    assert not {"mask.seed", "data.seed", "seed"} & set(g.settings)


def test_models_of_another_precision_are_not_set_side_by_side(tmp_path, make_run, edit):
    make_run(tmp_path / "a")
    edit(make_run(tmp_path / "b"), settings={"precision.weights": "bfloat16"})
    runs = collect([tmp_path])[0]
    assert {g.place for g in group(runs)} == {"mini (weights=float32)", "mini (weights=bfloat16)"}
    assert {g.place for g in originals(runs)} == {g.place for g in group(runs)}


def test_of_many_places_the_number_does_not_depend_on_the_order_of_the_runs(tmp_path, make_run, edit):
    for i, fold in enumerate(("a", "b", "c")):  # four settings differ, more than a place names
        folder = make_run(tmp_path / str(i))
        apart = {"data.forget": str(i), "data.seed": i, "data.fold": fold, "evaluator.mia_k": i / 10}
        edit(folder, settings=apart)
        if i == 0:
            (folder / "metrics.json").unlink()  # an unevaluated run comes last in group(), not in originals()
            record = json.loads((folder / "provenance.json").read_text()) | {"stages": {}}
            (folder / "provenance.json").write_text(json.dumps(record))
    runs = collect([tmp_path])[0]
    place = {g.settings["data.forget"]: g.place for g in group(runs)}
    assert all(g.place == place[g.settings["data.forget"]] for g in originals(runs))


def test_seeds_of_one_config_are_one_group_whatever_their_folders_are_called(tmp_path, make_run):
    for seed in range(3):
        make_run(tmp_path / f"{'xyz'[seed]}", seed=seed)
    make_run(tmp_path / "other", t=0.5)
    make_run(tmp_path / "number", lr=0.00001, seed=3)  # "1e-5" is a text in YAML 1.1, and the same learning rate
    groups = group(collect([tmp_path])[0])
    assert sorted(g.seeds for g in groups) == [1, 4]
    assert {g.differs() for g in groups} == {"t=0.3", "t=0.5"}


def test_an_older_run_of_the_same_config_and_seed_does_not_count_twice(tmp_path, make_run):
    make_run(tmp_path / "1", finished="2025-11-25T05:00:00+00:00")
    make_run(tmp_path / "2", finished="2025-11-25T04:00:00+00:00")
    runs, skipped = collect([tmp_path])
    assert [run.path.name for run in runs] == ["1"]
    assert [s.path.name for s in skipped] == ["2"]
    assert "newer" in skipped[0].reason
    assert "not the same" not in skipped[0].reason


def test_of_three_equal_runs_the_newest_counts_and_what_differs_is_said(tmp_path, make_run):
    for hour in (3, 5, 4):
        make_run(tmp_path / str(hour), finished=f"2025-11-25T0{hour}:00:00+00:00")
    path = tmp_path / "3" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"aggregate": 0.123}))
    (run,), skipped = collect([tmp_path])
    assert run.path.name == "5"
    assert {s.path.name: "not the same" in s.reason for s in skipped} == {"3": True, "4": False}
    assert all(str(tmp_path / "5") in s.reason for s in skipped)


def test_a_run_that_stopped_before_its_evaluation_on_purpose_is_no_error(tmp_path, make_run):
    run = make_run(tmp_path / "attribution_only")
    (run / "metrics.json").unlink()
    record = json.loads((run / "provenance.json").read_text())
    del record["stages"]["evaluation"]
    (run / "provenance.json").write_text(json.dumps(record))
    found = read(run)
    assert isinstance(found, Run)
    (g,) = group([found])
    assert not g.evaluated
    assert g.metrics() == []

    evaluated = read(make_run(tmp_path / "evaluated"))
    assert isinstance(evaluated, Run)
    (g,) = group([found, evaluated])  # one config and one seed are one run, the evaluated one
    assert g.runs == (evaluated,)


def test_settings_of_any_shape_are_kept_flat(tmp_path, make_run, edit):
    folder = make_run(tmp_path / "run")
    odd = {"a.list": [1, 2], "b": {"c": None}, "d.path": "/somewhere/else/rows", "e": "${now:%Y}", "f": "2e-3"}
    edit(folder, settings=odd)
    found = read(folder)
    assert isinstance(found, Run)
    kept = {key: found.settings[key] for key in ("a.list", "b.c", "d.path", "e", "f")}
    assert kept == {"a.list": "[1, 2]", "b.c": None, "d.path": "rows", "e": "${now:%Y}", "f": 0.002}


def test_a_run_is_named_by_what_it_recorded_and_not_by_its_keys(tmp_path, make_run, edit):
    folder = make_run(tmp_path / "run", data="lume")
    edit(folder, benchmark="qa", switches={"model": {"name": "mine"}, "data": {}}, method="theirs")
    found = read(folder)
    assert isinstance(found, Run)
    assert (found.benchmark, found.model, found.data, found.method) == ("qa", "mine", "lume", "theirs")


@pytest.mark.parametrize("seed", ["abc", [1], 0.5])
def test_a_seed_that_is_none_is_said(tmp_path, make_run, edit, seed):
    edit(make_run(tmp_path / "run"), switches={"seed": seed})
    assert reasons([tmp_path / "run", make_run(tmp_path / "good")])["run"].startswith("seed ")


def test_estimate_over_seeds_is_students_t_and_over_rows_the_evaluators(tmp_path, make_run):
    make_run(tmp_path / "a", seed=0)
    one = group(collect([tmp_path])[0])[0].estimate("forget/exact_match")
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert one is not None
    assert (one.low, one.n, one.over) == (metrics["forget/exact_match/ci_low"], 40, "rows")

    for seed, value in enumerate((0.1, 0.2, 0.6)):
        folder = make_run(tmp_path / f"b{seed}", seed=seed, m=3)
        metrics = json.loads((folder / "metrics.json").read_text()) | {"aggregate": value}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    g = next(g for g in group(collect([tmp_path])[0]) if g.seeds == 3)
    found = g.estimate("aggregate")
    # by hand: mean 0.3, standard deviation 0.264575, standard error 0.152753, t(0.975, 2) = 4.302653
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.3, 0.3 - 0.657241, 0.3 + 0.657241), abs=1e-5)
    assert (found.seeds, found.over) == (3, "seeds")


def test_equal_seeds_have_an_interval_of_no_width():
    assert over_seeds([0.25, 0.25]) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("metric", "n"),
    [
        ("forget/exact_match", 40),
        ("forget/knowledge", 7),
        ("forget/Task1/knowledge", 3),
        ("mia/min_k", 60),
        ("aggregate", None),
    ],
)
def test_n_is_the_nearest_count_above_a_metric(metric, n):
    counts = {"forget/n": 40, "forget/knowledge/n": 7, "forget/Task1/n": 3, "mia/n_members": 40, "mia/n_nonmembers": 20}
    assert rows_scored(counts, metric) == n


def test_originals_are_one_group_for_each_model_and_data(sweeps):
    found = originals(collect([sweeps])[0])
    seeds = {("tiny", "mini", 2), ("olmo_1b", "tofu", 1), ("olmo_1b", "lume", 1)}
    assert {(g.model, g.data, g.seeds) for g in found} == seeds
    assert {g.method for g in found} == {"original"}
    assert all(not metric.startswith("original/") for g in found for metric in g.metrics())


def test_a_neuron_tensor_that_is_missing_or_broken_is_none(tmp_path, make_run):
    run = read(make_run(tmp_path / "run"))
    assert isinstance(run, Run)
    scores = run.tensor("attribution.safetensors", "forget")
    assert scores is not None
    assert scores.shape == (4, 64)
    assert run.tensor("attribution.safetensors", "nothing") is None
    (Path(run.path) / "mask.safetensors").write_bytes(b"broken")
    assert run.tensor("mask.safetensors", "mask") is None
