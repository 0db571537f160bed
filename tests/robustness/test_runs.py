"""Attacks in runs: controls, the cache, a kill, and what they may not touch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import SMALL, run_folder, simu
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from simu.checks import check_attacks
from simu.config import build_run, conf_dir
from simu.types import UserError

PLAIN = [*SMALL, "tracker=none", "method=simu", "retain_reference=true", "evaluator.truth_ratio=false"]
RUN = [*PLAIN, "robustness=quick", "robustness.rows=4", "robustness.attacks.relearn.steps=[0,2]"]
RUN += ["robustness.attacks.relearn.lr=0.01"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    told = simu(*RUN, "save_model=true", cwd=root).stdout
    assert "after attacks" in told
    assert "step 2" in told
    return root


def metrics_of(root: Path) -> dict[str, float]:
    return json.loads((run_folder(root) / "metrics.json").read_text())


def test_the_unlearned_model_stands_between_its_controls(folder):
    metrics = metrics_of(folder)
    for who in ("", "original/", "retain_only/"):
        for setting in ("relearn/step_0", "relearn/step_2", "quantize/int8", "quantize/nf4"):
            for key in ("forget/rouge_l_recall", "forget/rouge_l_recall/ci_low", "forget/n", "retain/rouge_l_recall"):
                assert f"{who}{setting}/{key}" in metrics
    assert metrics["relearn/step_0/forget/n"] == 4
    assert not any("world_facts" in key for key in metrics if key.startswith(("relearn", "quantize")))
    moved = metrics["relearn/step_2/forget/probability"], metrics["relearn/step_0/forget/probability"]
    assert moved[0] > moved[1]
    rows = [json.loads(line) for line in (run_folder(folder) / "robustness.jsonl").read_text().splitlines()]
    assert {(r["attack"], r["setting"], r["model"]) for r in rows} == {
        (attack, setting, model)
        for attack, settings in {"relearn": ("step_0", "step_2"), "quantize": ("int8", "nf4")}.items()
        for setting in settings
        for model in ("unlearned", "original", "retain_only")
    }


def test_the_saved_model_is_the_same_without_attacks_and_controls_are_attacked_once(folder):
    attacked = run_folder(folder)
    done = simu(*PLAIN, "save_model=true", cwd=folder)
    with_, without = (load_file(f / "model" / "model.safetensors") for f in (attacked, run_folder(folder)))
    assert with_.keys() == without.keys()
    assert all(with_[name].equal(without[name]) for name in with_)
    assert "after attacks" not in done.stdout
    done = simu(*RUN, "method=fo_graddiff", cwd=folder)  # another method: the same controls
    stages = json.loads((run_folder(folder) / "provenance.json").read_text())["stages"]
    for attack in ("relearn", "quantize"):
        assert stages[f"{attack} (original)"]["cached"]
        assert stages[f"{attack} (retain only)"]["cached"]
        assert not stages[f"{attack} (fo_graddiff)".replace("_", " ")]["cached"]


def test_killed_in_an_attack_and_started_again_it_ends_in_the_same_bytes(folder, tmp_path):
    words = [sys.executable, "-m", "simu.run", *RUN, "hydra.run.dir=out", "save_model=true"]
    env = {**os.environ, "SIMU_CACHE_DIR": str(tmp_path / "cache")}
    started = subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while started.poll() is None and not list((tmp_path / "cache").glob("robustness/*")):
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert started.returncode == -signal.SIGKILL
    subprocess.run(words, cwd=tmp_path, env=env, check=True, capture_output=True)
    uninterrupted = sorted((folder / "outputs").glob("*/*"))[0]
    assert (tmp_path / "out" / "metrics.json").read_bytes() == (uninterrupted / "metrics.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["robustness.attacks.relearn.rows=lies"], "robustness.attacks.relearn.rows='lies'"),
        (["robustness.attacks.relearn.steps=[3,2]"], "numbers that rise"),
        (["robustness.attacks.quantize.grids=[int3]"], "robustness.attacks.quantize.grids"),
    ],
)
def test_bad_input_is_one_line_before_any_stage(words, said, tmp_path):
    done = simu(*RUN, *words, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").glob("target/*"))


def test_rows_to_relearn_that_there_are_none_of_and_several_processes_are_refused(monkeypatch):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = build_run(compose("config", overrides=["robustness=quick", "robustness.attacks.relearn.rows=holdout"]))
    splits = cfg.data()
    check_attacks(cfg, splits)
    without = replace(splits, evaluation={name: rows for name, rows in splits.evaluation.items() if name != "holdout"})
    with pytest.raises(UserError, match=r"robustness.attacks.relearn.rows=holdout: the data set has none"):
        check_attacks(cfg, without)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="attacks are made in one process"):
        check_attacks(cfg, splits)


def test_a_dry_run_names_the_attacks(tmp_path):
    told = simu(*SMALL, "robustness=standard", "dry_run=true", cwd=tmp_path).stdout
    assert "attacks      relearn, relearn_benign, quantize, prune, paraphrase, prefix" in told
