"""What a second run takes from the cache and what it computes anew: after a change, damage, or a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from commands import SMALL, simu

DELAYS = sorted(round(x, 1) for x in map(Random(0).uniform, [2.0] * 10, [14.0] * 10))
"""Seconds after which a run is killed: ten moments, drawn once."""


def test_second_run_takes_everything_from_the_cache_with_equal_bytes(finished):
    again = simu(*SMALL, "hydra.run.dir=second", cwd=finished)
    assert (finished / "second/metrics.json").read_bytes() == (finished / "first/metrics.json").read_bytes()
    stages = json.loads((finished / "second/provenance.json").read_text())["stages"]
    assert all(stage["cached"] for stage in stages.values())
    assert "from the cache" in again.stdout


def test_another_threshold_recomputes_mask_and_after_but_not_target_or_attribution(finished):
    simu(*SMALL, "mask.t=0.9", "hydra.run.dir=third", cwd=finished)
    stages = json.loads((finished / "third/provenance.json").read_text())["stages"]
    computed = {name for name, stage in stages.items() if not stage["cached"]}
    assert computed == {"mask", "unlearning (simu)", "evaluation (simu)"}


def test_damaged_cache_entry_is_said_and_recomputed(finished):
    victim = next((finished / "cache" / "attribution").glob("*/attribution.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-8])
    done = simu(*SMALL, "hydra.run.dir=fourth", cwd=finished)
    assert "is damaged (attribution.safetensors is altered or truncated)" in done.stdout
    assert (finished / "fourth/metrics.json").read_bytes() == (finished / "first/metrics.json").read_bytes()


def computed(folder: Path) -> set[str]:
    stages = json.loads((folder / "provenance.json").read_text())["stages"]
    return {name for name, stage in stages.items() if not stage["cached"]}


@pytest.mark.parametrize(
    "word", ["training.checkpoint_every=1", "cache_dir=./cache", "tracker=none", "stages=[target,attribution]"]
)
def test_a_knob_recomputes_nothing(finished, word):
    simu(*SMALL, word, "hydra.run.dir=knob", cwd=finished)
    assert computed(finished / "knob") == set()


def changed_in(folder: Path, place: str, old: str, new: str) -> None:
    """A copy of the package with one line changed."""
    root = Path(__file__).parents[1]
    for name in ("simu", "conf", "multirun_sweeps"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "simu" / place
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


EVERYTHING = {
    "target",
    "evaluation (original)",
    "attribution (forget)",
    "mask",
    "unlearning (simu)",
    "evaluation (simu)",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "old", "new", "anew"),
    [
        ("optim/sophia.py", "alpha=-lr)", "alpha=-lr / 2)", {"unlearning (simu)", "evaluation (simu)"}),
        ("masks/critical.py", "exact > t * largest", "exact >= t * largest", {"mask"}),
        (
            "metrics/text.py",
            "return common / target",
            "return 0.5 * common / target",
            {"evaluation (original)", "evaluation (simu)"},
        ),
        ("models/load.py", "torch.manual_seed(narrow(seed))", "torch.manual_seed(narrow(seed) + 1)", EVERYTHING),
        ("optim/sophia.py", "lr = float", "# half of it\n    lr = float", set()),
        ("report/summary.py", "def print_summary", "X = 1\n\n\ndef print_summary", set()),
    ],
    ids=["optimizer", "mask", "metric", "model", "comment", "report"],
)
def test_changed_code_recomputes_its_stage_and_those_after_it(finished, tmp_path, place, old, new, anew):
    """On a copy of the package; the cache is the finished run's. A mask that comes out equal stops there."""
    changed_in(tmp_path, place, old, new)
    shutil.copytree(finished / "cache", tmp_path / "cache")
    simu(*SMALL, "hydra.run.dir=changed", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert computed(tmp_path / "changed") == anew


@pytest.mark.slow
def test_killed_in_unlearning_and_the_code_changed_that_stage_begins_again_and_says_so(finished, tmp_path):
    changed_in(tmp_path, "optim/sophia.py", "alpha=-lr)", "alpha=-lr / 2)")
    words = [*SMALL, "training.epochs=4", "training.checkpoint_every=1"]
    whole = simu(*words, "hydra.run.dir=whole", "cache_dir=other", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "the code has changed" not in whole.stdout

    shutil.copytree(finished / "cache", tmp_path / "cache")
    dies = "import os\nfrom simu import training\nsave = training.save\n"
    dies += "def dying(*a):\n    save(*a)\n    os._exit(9)\ntraining.save = dying\nfrom simu.run import main\nmain()"
    command = [sys.executable, "-c", dies, *words, "hydra.run.dir=killed"]
    env = {**os.environ, "SIMU_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    (tmp_path / "before").mkdir()  # not beside the changed package: Python looks there first
    assert subprocess.run(command, cwd=tmp_path / "before", env=env, stdout=subprocess.DEVNULL).returncode == 9
    assert list((tmp_path / "cache/unlearning").glob("*.partial/checkpoint/training.pt"))

    done = simu(*words, "hydra.run.dir=killed", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert re.search(r"unlearning: the code has changed since \w+\.partial was stopped: from the start", done.stdout)
    assert (tmp_path / "killed/metrics.json").read_bytes() == (tmp_path / "whole/metrics.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("delay", DELAYS)
def test_killed_anywhere_and_started_again_gives_equal_metrics(finished, tmp_path, delay):
    command = [sys.executable, "-m", "simu.run", *SMALL, "training.checkpoint_every=1", "hydra.run.dir=killed"]
    env = {**os.environ, "SIMU_CACHE_DIR": str(tmp_path / "cache")}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    simu(*SMALL, "training.checkpoint_every=1", "hydra.run.dir=killed", cwd=tmp_path)
    assert (tmp_path / "killed/metrics.json").read_bytes() == (finished / "first/metrics.json").read_bytes()
