"""benchmarks/sweep.py runs on models of seconds; its three ways agree and only `scratch` repeats a stage."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "sweep.py"
SMALLER = [
    *SMALL,
    "model.target.max_epochs=1",
    "data.authors=4",
    "data.holdout_authors=1",
    "evaluator.max_new_tokens=4",
    "evaluator.bootstrap=10",
    "training.epochs=1",
    "attribution.m=1",
]


@pytest.mark.slow
def test_three_ways_agree_and_the_cache_shares_stages():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--sweep", "mask.t=0.4,0.8", *SMALLER],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    runs = {
        line.split()[0]: line.split()[-4:] for line in done.stdout.splitlines() if line.startswith(("scr", "sweep"))
    }
    assert runs == {"scratch": ["2,", "2,", "2,", "4"], "sweep": ["1,", "1,", "2,", "3"]}
    assert "equal metrics in 2 of 2 jobs" in done.stdout
