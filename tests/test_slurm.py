"""A sweep through a real Slurm, where there is one; what sbatch refuses, and what it is told too often."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from commands import SMALL

from simu.cli.guard import SaidOnce
from simu.cli.messages import explain


def cluster() -> bool:
    """Whether a node takes jobs."""
    if shutil.which("sinfo") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        return False
    told = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True)
    return told.returncode == 0 and any(word in told.stdout for word in ("idle", "mix", "alloc"))


@pytest.mark.slow
def test_a_sweep_of_four_teaches_its_target_once(tmp_path):
    if not cluster():
        pytest.skip("no Slurm node takes jobs here, or the extra `slurm` is not installed")
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1"]
    launcher += ["hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=10"]
    swept = ["tracker=none", "method=simu", "mask=dual,random", "training.epochs=1,2", "hydra.sweep.dir=sweep"]
    command = [sys.executable, "-m", "simu.run", "-m", *SMALL, *launcher, *swept, f"cache_dir={tmp_path}/cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sacct error") <= 2  # the launcher's own handler and Hydra's
    stages = [json.loads((tmp_path / f"sweep/{i}/provenance.json").read_text())["stages"] for i in range(4)]
    assert sum(not one["target"]["cached"] for one in stages) == 1
    assert len({one["target"]["digest"] for one in stages}) == 1


def test_what_sbatch_refuses_is_one_line_with_the_cure():
    error = RuntimeError("sbatch: error: Invalid generic resource (gres) specification")
    line = explain(error, ["hydra/launcher=submitit_slurm"])
    assert line is not None
    assert "\n" not in line
    assert "sbatch refuses the job (Invalid generic resource (gres) specification)" in line
    assert "hydra.launcher.gpus_per_node=0" in line
    other = explain(RuntimeError("sbatch: error: invalid partition specified: nowhere"), [])
    assert other is not None
    assert "gpus_per_node" not in other


def test_a_cluster_without_accounting_is_told_of_once():
    told = SaidOnce()
    records = [
        logging.LogRecord("submitit", logging.WARNING, "", 0, text, None, None) for text in ("sacct error 1",) * 3
    ]
    assert [told.filter(record) for record in records] == [True, False, False]
    assert told.filter(logging.LogRecord("submitit", logging.WARNING, "", 0, "another", None, None))
