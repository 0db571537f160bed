"""docs/extending.md, done as it says: its files are put into a copy of the package, checked, and run."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from simu.config import conf_dir

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?:python|yaml)\n# ((?:simu|conf)/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECK = """
from simu.config import build
from simu.losses.forget.unlikelihood import Unlikelihood
from simu.masks.outliers import Outliers
from simu.metrics.first_word import METRICS
from simu.metrics.metric import find
from simu.testing import check_loss, check_mask, check_metric
from simu.types import UserError

check_metric(METRICS[0])
check_loss(Unlikelihood())
for z in (-0.5, 0.0, 1.0):
    check_mask(Outliers(z=z))
assert find("original/forget/first_word").better == "lower"
assert find("retain/first_word").label == "retain First word"
try:
    build({"_target_": "simu.masks.outliers.Outliers", "z": 11.0}, "mask")
except UserError as error:
    assert str(error) == "mask.z=11.0: allowed is a finite number, -10 ≤ x ≤ 10", error
else:
    raise AssertionError("z=11 was taken")
"""
SIZES = {"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 400}
SMALL = [
    *(f"model.{name}={size}" for name, size in SIZES.items()),
    "model.target.max_epochs=1",
    "data.authors=4",
    "data.holdout_authors=1",
    "data.evaluation_rows=6",
    "evaluator.max_new_tokens=8",
    "evaluator.bootstrap=20",
    "training.epochs=1",
    "attribution.m=1",
    "tracker=none",
    "device=cpu",
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """simu/ and conf/ beside each other, with the files of the document."""
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "simu", root / "simu", ignore=ignored)
    shutil.copytree(conf_dir(), root / "conf", ignore=ignored)
    for name, text in BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        assert not (root / name).exists(), f"{name} is there already: the document must add, not replace"
        (root / name).write_text(text, encoding="utf-8")
    return root


def python(copy: Path, *words: str) -> str:
    """In the copy; whatever else is installed, `simu` is the copy's. What it prints."""
    env = {**os.environ, "PYTHONPATH": str(copy), "SIMU_CACHE_DIR": str(copy / "cache")}
    env.pop("SIMU_CONF", None)
    done = subprocess.run([sys.executable, *words], cwd=copy, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_document_shows_these_files():
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert {name for name, _ in BLOCK.findall(text)} == {
        "simu/metrics/first_word.py",
        "simu/losses/forget/unlikelihood.py",
        "conf/objective/unlikelihood.yaml",
        "simu/masks/outliers.py",
        "conf/mask/outliers.yaml",
    }


def test_its_components_keep_their_contracts(copy):
    python(copy, "-c", CHECK)


def test_a_run_uses_all_three(copy):
    words = ["mask=outliers", "mask.z=0.5", "objective=unlikelihood", "objective/retain=none", "hydra.run.dir=run"]
    printed = python(copy, "-m", "simu.run", *SMALL, *words)
    metrics = json.loads((copy / "run" / "metrics.json").read_text())
    for split in ("forget", "retain", "original/forget"):
        assert 0 <= metrics[f"{split}/first_word"] <= 1
        assert metrics[f"{split}/first_word/ci_low"] <= metrics[f"{split}/first_word/ci_high"]
    # an untaught model is sure of no token: −log(1 − p) is small, and positive where ascent's log p is negative
    steps = [json.loads(line) for line in (copy / "run" / "train_log.jsonl").read_text().splitlines()]
    assert steps
    assert all(0 < step["forget_loss"] < 1 for step in steps)
    mask = load_file(copy / "run" / "mask.safetensors")["mask"]
    scores = load_file(copy / "run" / "attribution.safetensors")["forget"].double()
    high = scores > scores.mean(dim=1, keepdim=True) + 0.5 * scores.std(dim=1, keepdim=True)
    assert mask.equal(high)
    assert 0 < mask.sum() < mask.numel()

    # the metric asks to be in the headline (headline=True): it is in the summary and heads columns of the main tables
    metrics_of = {split: metrics[f"{split}/first_word"] for split in ("forget", "retain")}
    for split, arrow in (("forget", "↓"), ("retain", "↑")):
        before, after = metrics[f"original/{split}/first_word"], metrics_of[split]
        assert re.search(rf"{split} First word +{arrow} +{before:.3f}.* {after:.3f}", printed), printed
    python(copy, "-m", "simu.report", "run", "--quiet", "--no-figures", "--out", "report")
    for table in ("table1", "runs_qa"):
        rows = list(csv.DictReader((copy / "report" / "tables" / f"{table}.csv").open(encoding="utf-8")))
        (ours,) = (row for row in rows if row["method"] == "simu")
        for split, value in metrics_of.items():
            assert float(ours[f"{split.capitalize()} First word"]) == value
        head = (copy / "report" / "tables" / f"{table}.md").read_text(encoding="utf-8")
        assert "| Forget First word ↓ |" in head
        assert "| Retain First word ↑ |" in head
    page = (copy / "report" / "index.html").read_text(encoding="utf-8")
    assert "First word ↓" in page
    assert "First word ↑" in page
