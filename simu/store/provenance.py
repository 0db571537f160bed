"""What a number came from: versions, machine, command, config digest, and each stage's digest."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

SCHEMA = 1
"""Version of the run folder's layout; the report skips others by name."""

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "hydra-core", "accelerate", "peft", "rouge-score")


def describe(config: dict[str, Any], config_digest: str, overrides: list[str]) -> dict[str, Any]:
    """Everything about a run that is known when it starts. No host name, no user, no path outside the command."""
    return {
        "schema": SCHEMA,
        "status": "running",
        "config_digest": config_digest,
        "command": f"python -m simu.run {' '.join(overrides)}".strip(),
        "switches": config,
        "git": git_state(),
        "versions": {"python": platform.python_version(), **versions()},
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "started": now(),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    from simu import __version__

    found = {"simu": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Kind and size of the machine: what timings depend on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"system": platform.system(), "processor": _processor(), "cores": os.cpu_count(), "gpus": gpus}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def git_state() -> dict[str, Any] | None:
    """Commit and whether the tree differs from it; None outside a checkout."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
