"""Runs are found by what they hold and known by their config; what cannot be used is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from simu.report.collect import Run, collect, read
from simu.report.groups import group, originals, over_seeds, rows_scored
from simu.types import UserError


def reasons(paths) -> dict[str, str]:
    return {skipped.path.name: skipped.reason for skipped in collect(paths)[1]}


def test_every_run_of_nested_sweeps_is_found_once(sweeps):
    runs, skipped = collect([sweeps, sweeps / "mini", sweeps / "mini" / "table1" / "0"])
    assert len(runs) == len(list(sweeps.rglob("provenance.json"))) == 22 + 2 * 19
    assert skipped == []


def test_unusable_runs_are_named_and_the_rest_is_read(tmp_path, make_run):
    good = make_run(tmp_path / "good")
    for name in ("cut", "unread", "old", "unknown", "failed", "going", "bare", "no_config", "no_metrics"):
        shutil.copytree(good, tmp_path / name)
    (tmp_path / "cut" / "metrics.json").write_text((good / "metrics.json").read_text()[:50])
    (tmp_path / "unread" / "provenance.json").write_text('{"schema": 1, "sta')
    (tmp_path / "bare" / "provenance.json").unlink()
    (tmp_path / "no_config" / ".hydra" / "config.yaml").write_text("a: [1,")
    (tmp_path / "no_metrics" / "metrics.json").unlink()
    change = {"old": {"schema": 0}, "unknown": {"schema": None}, "going": {"status": "running"},
              "failed": {"status": "failed", "reason": "loss is\nnan at step 3"}}  # fmt: skip
    for name, values in change.items():
        record = json.loads((good / "provenance.json").read_text()) | values
        (tmp_path / name / "provenance.json").write_text(json.dumps(record))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").write_text("")

    paths = [tmp_path, tmp_path / "missing", tmp_path / "empty", tmp_path / "a_file"]
    runs, _ = collect(paths)
    said = reasons(paths)
    assert [run.path.name for run in runs] == ["good"]
    assert set(said) == {*change, "cut", "unread", "bare", "no_config", "no_metrics", "missing", "empty", "a_file"}
    assert "schema 0" in said["old"]
    assert said["failed"] == "failed: loss is nan at step 3"
    assert said["missing"] == "no such folder"
    assert said["a_file"] == "not a folder"
    assert "no run in it" in said["empty"]
    assert all("\n" not in reason for reason in said.values())
    assert all(said[name].startswith("half-written") for name in ("cut", "unread", "bare", "no_config", "no_metrics"))


def test_no_usable_run_at_all_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"no finished run under .*no such folder"):
        collect([tmp_path / "nowhere"])


def test_seeds_of_one_config_are_one_group_whatever_their_folders_are_called(tmp_path, make_run):
    for seed in range(3):
        make_run(tmp_path / f"{'xyz'[seed]}", seed=seed)
    make_run(tmp_path / "other", t=0.5)
    make_run(tmp_path / "text", lr="0.00001", seed=3)  # 1e-5 is a text in YAML 1.1, and the same learning rate
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


def test_interpolations_that_only_a_run_can_resolve_are_kept_as_text(tmp_path, make_run):
    folder = make_run(tmp_path / "run")
    path = folder / ".hydra" / "config.yaml"
    path.write_text(path.read_text() + "extra: {now: '${now:%Y}'}\n")
    found = read(folder)
    assert isinstance(found, Run)
    assert found.settings()["extra.now"] == "${now:%Y}"


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


@pytest.mark.parametrize(("metric", "n"), [
    ("forget/exact_match", 40), ("forget/knowledge", 7), ("forget/Task1/knowledge", 3), ("mia/min_k", 60),
    ("aggregate", None),
])  # fmt: skip
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
