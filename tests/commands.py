"""The command line as tests call it: in a process of its own, with a cache of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SMALL = [
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.layers=2",
    "model.heads=2",
    "model.kv_heads=1",
    "model.vocab_size=400",
    "model.target.max_epochs=2",
    "model.target.check_every=1",
    "data.authors=6",
    "data.holdout_authors=2",
    "evaluator.max_new_tokens=12",
    "evaluator.bootstrap=50",
    "training.epochs=2",
    "attribution.m=2",
    "device=cpu",
]
"""A run of seconds: nothing is memorised, everything is done."""


def simu(*words: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "simu.run", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "SIMU_CACHE_DIR": str(cwd / "cache"), **env},
        timeout=600,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def run_folder(root: Path) -> Path:
    return sorted((root / "outputs").glob("*/*"))[-1]


FSDP = ["-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
FSDP += ["--num_machines", "1"]
FSDP += ["--dynamo_backend", "no", "--mixed_precision", "no", "--main_process_port"]
"""One model over two processes on the CPU; the port follows, 0 for a free one."""
