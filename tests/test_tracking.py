"""W&B offline: a run read back by wandb's own reader holds config, history, summary, table and image."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from simu.tracking import Wandb, heat

LABELS = {
    "group": "tiny-mini",
    "job_type": "run",
    "name": "n",
    "kind": "simu dual",
    "method": "simu",
    "data": "mini",
    "model": "tiny",
    "seed": "3",
}


def inspect(file: Path, *words: str) -> str:
    wandb = shutil.which("wandb") or str(Path(sys.executable).with_name("wandb"))
    done = subprocess.run([wandb, "leet", "inspect", "--json", *words, str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wandb")
    tracker = Wandb(mode="offline", project="simu", entity=None, group=None, table_rows=2)
    run = tracker.open(folder, {"mask": {"t": 0.3}, "seed": 3}, LABELS)
    for name in ("attribution/forget", "attribution/retain", "mask"):
        run.heatmap(name, torch.eye(2, 8))
    for step in (1, 2):
        run.log({"forget_loss": -float(step), "lr": 0.1}, step=step)
    rows = [{"id": f"forget/{i}", "split": "forget", "prompt": "p", "answer": "a", "generated": "g"} for i in range(5)]
    run.table("generations", rows)
    run.summary({"aggregate": 0.75, "forget/rouge_l_recall": 0.1})
    run.finish()
    return next(folder.glob("wandb/offline-run-*/*.wandb"))


def test_offline_files_are_complete(written):
    about = json.loads(inspect(written, "--summary"))
    assert about["config"]["mask"] == {"t": 0.3}
    assert about["config"]["seed"] == 3
    assert set(about["tags"]) == {"simu", "mini", "tiny", "seed=3"}
    assert about["summary"]["aggregate"] == 0.75
    assert about["summary"]["forget/rouge_l_recall"] == 0.1
    records = [json.loads(line) for line in inspect(written).splitlines()]
    history = [r["history"]["item"] for r in records if r["type"] == "history"]
    losses = {item["_step"]: item["train/forget_loss"] for item in history if "train/forget_loss" in item}
    assert losses == {1: -1.0, 2: -2.0}  # three images before them push none of them out
    about_run = next(r["run"] for r in records if r["type"] == "run")
    assert (about_run["run_group"], about_run["job_type"], about_run["project"]) == ("tiny-mini", "run", "simu")
    media = written.parent / "files" / "media"
    for name in ("attribution/forget", "attribution/retain", "mask"):
        assert len(list(media.glob(f"images/{name}*.png"))) == 1
    table = json.loads(next(media.glob("table/generations*.json")).read_text())
    assert table["columns"] == ["id", "split", "prompt", "answer", "original", "generated"]
    assert [row[0] for row in table["data"]] == ["forget/0", "forget/1"]  # table_rows


class Breaks:
    """A W&B run that breaks off at its second record."""

    def __init__(self):
        self.calls: list[str] = []
        self.summary = self

    def log(self, values, step):
        self.calls.append("log")
        if len(self.calls) > 1:
            raise OSError("no space\nleft on device")

    def update(self, values):
        self.calls.append("summary")

    def finish(self, exit_code):
        self.calls.append("finish")

    def define_metric(self, *_, **__):
        pass


def watch_all(tracker: Wandb, folder: Path) -> None:
    run = tracker.open(folder, {}, LABELS)
    for step in (1, 2, 3):
        run.log({"lr": 0.1}, step=step)
    run.heatmap("mask", torch.eye(2, 8))
    run.table("generations", [{"id": "a"}])
    run.summary({"aggregate": 0.5})
    run.finish()


def test_a_tracker_that_fails_is_said_once_and_never_stops_the_run(tmp_path, monkeypatch, caplog):
    import wandb

    tracker = Wandb(mode="offline", project="simu", entity=None, group=None, table_rows=2)
    broken = Breaks()
    monkeypatch.setattr(wandb, "init", lambda **_: broken)
    watch_all(tracker, tmp_path)
    assert broken.calls == ["log", "log"]
    assert [r.getMessage() for r in caplog.records] == [
        "tracker: W&B failed (no space left on device); the run goes on without it"
    ]
    caplog.clear()

    def refuses(**_):
        raise RuntimeError("no service")

    monkeypatch.setattr(wandb, "init", refuses)
    watch_all(tracker, tmp_path)
    assert len(caplog.records) == 1
    caplog.clear()
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    watch_all(tracker, tmp_path)
    assert len(caplog.records) == 1


def test_an_interrupt_is_no_failure_of_the_tracker(tmp_path, monkeypatch):
    import wandb

    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", interrupted)
    tracker = Wandb(mode="offline", project="simu", entity=None, group=None, table_rows=2)
    with pytest.raises(KeyboardInterrupt):
        tracker.open(tmp_path, {}, LABELS)


def test_heatmap_scales_each_layer_and_pools_by_maximum():
    values = torch.tensor([[0.0, 1.0, 2.0, 4.0], [-1.0, 0.0, 0.0, 0.0]])
    assert np.asarray(heat(values, width=4, row_height=1)).tolist() == [[0, 64, 128, 255], [0, 0, 0, 0]]
    assert np.asarray(heat(values, width=2, row_height=2)).tolist() == [[64, 255]] * 2 + [[0, 0]] * 2


def test_dashboard_without_an_account_is_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces", reason="extra `dashboards` is not installed")
    from simu.dashboard import main

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert main(["someone"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "wandb login" in err


def test_dashboard_has_a_panel_for_each_metric():
    pytest.importorskip("wandb_workspaces", reason="extra `dashboards` is not installed")
    from simu.dashboard import METRICS, STEPS, workspace
    from simu.metrics.benchmarks import BENCHMARKS
    from simu.report.columns import headed

    sections = {s.name: s.panels for s in workspace("someone", "simu").sections}
    trades = [f"forgetting against retention: {benchmark.title}" for benchmark in BENCHMARKS.values()]
    assert [p.title for p in sections["methods"]] == [*map(headed, METRICS), *trades]
    assert {key for benchmark in BENCHMARKS.values() for key in benchmark.headline} == set(METRICS)
    assert [p.title for p in sections["training"]] == list(STEPS)
