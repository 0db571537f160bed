"""provenance.json: what a run's numbers came from, from its first moment to its end."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simu.store.files import digest, read_json, remove, write_json

log = logging.getLogger("simu")

SCHEMA = 2
"""Version of the run folder's layout; the report skips others by name."""
FILE = "provenance.json"
ARTIFACTS = (
    "metrics.json",
    "generations.jsonl",
    "train_log.jsonl",
    "attribution.safetensors",
    "mask.safetensors",
    "mask_report.json",
    "model",
)
"""What a run leaves in its folder beside its record and Hydra's."""
LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "hydra-core", "accelerate", "peft", "rouge-score")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run's record. No host name, no user, no path outside the command."""

    folder: Path
    switches: Mapping[str, Any]
    """The composed config, as plain values."""
    command: Sequence[str]
    """The overrides of the command line."""
    facts: Mapping[str, Any]
    """benchmark, method, options (slot → option), settings (all that can change a result), seeded, presets."""

    def write(self) -> bool:
        """At the start: status `running`. Returns whether a run was here before: see `clear`."""
        started, before = self._started(), _read(self.folder)
        if before.get("status") == "completed" and _what(before) != _what(json.loads(_plain(started))):
            log.info("%s: the results of another run (%s) give way", self.folder, before.get("command"))
        write_json(self.folder / FILE, started | {"status": "running"})
        return "status" in before

    def clear(self) -> None:
        """Remove what an earlier run left here: nothing stays that could pass for this one's."""
        for name in ARTIFACTS:
            remove(self.folder / name)

    def end(self, status: str, **more: Any) -> None:
        """At the end: `completed`, with the stages, or `dry run`."""
        write_json(self.folder / FILE, _read(self.folder) | {"status": status, "finished": now(), **more})

    def _started(self) -> dict[str, Any]:
        import torch

        return {
            "schema": SCHEMA,
            "config_digest": digest(json.loads(_plain(self.switches))),
            "command": shlex.join(["python", "-m", "simu.run", *self.command]),
            "switches": self.switches,
            **self.facts,
            "git": git_state(),
            "versions": {"python": platform.python_version(), **versions()},
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "started": now(),
        }


def status_of(folder: Path) -> str:
    """What a run's record says of it."""
    return str(_read(folder).get("status", "failed"))


def record_end(folder: Path, status: str, reason: str) -> None:
    """Mark a run as failed or stopped, with a one-line reason, for sweeps and reports. What is completed stays so."""
    before = _read(folder)
    with suppress(OSError):  # a full disk: what the run failed with is the thing to say
        if before.get("status") != "completed":
            write_json(folder / FILE, before | {"status": status, "reason": reason, "finished": now()})


def _what(record: Mapping[str, Any]) -> tuple[object, object]:
    """All that a run's results depend on."""
    switches = record.get("switches")
    return record.get("settings"), switches.get("seed") if isinstance(switches, dict) else None


def _plain(value: Any) -> str:
    return json.dumps(value, default=str)


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / FILE)
    except ValueError:
        return {"schema": SCHEMA}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    from importlib import metadata  # here and below: a refused value is told without loading these

    from simu import __version__

    found = {"simu": __version__}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Kind and size of the machine: what timings depend on."""
    import torch

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
    import subprocess

    def ask(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
