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

LABELS = {"group": "tiny-mini", "job_type": "run", "name": "n", "method": "simu", "data": "mini", "model": "tiny",
          "seed": "3"}  # fmt: skip


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
    run.heatmap("mask", torch.eye(2, 8))
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
    assert [item["train/forget_loss"] for item in history if "train/forget_loss" in item] == [-1.0, -2.0]
    media = written.parent / "files" / "media"
    assert len(list(media.glob("images/mask*.png"))) == 1
    table = json.loads(next(media.glob("table/generations*.json")).read_text())
    assert table["columns"] == ["id", "split", "prompt", "answer", "original", "generated"]
    assert [row[0] for row in table["data"]] == ["forget/0", "forget/1"]  # table_rows


def test_heatmap_scales_each_layer_and_pools_by_maximum():
    values = torch.tensor([[0.0, 1.0, 2.0, 4.0], [-1.0, 0.0, 0.0, 0.0]])
    assert np.asarray(heat(values, width=4, row_height=1)).tolist() == [[0, 64, 128, 255], [0, 0, 0, 0]]
    assert np.asarray(heat(values, width=2, row_height=2)).tolist() == [[64, 255]] * 2 + [[0, 0]] * 2


def test_dashboard_has_a_panel_for_each_metric():
    pytest.importorskip("wandb_workspaces", reason="extra `dashboards` is not installed")
    from simu.dashboard import METRICS, STEPS, workspace

    sections = {s.name: s.panels for s in workspace("someone", "simu").sections}
    assert [p.title for p in sections["methods"]] == [*METRICS, "forgetting against retention"]
    assert [p.title for p in sections["training"]] == list(STEPS)
