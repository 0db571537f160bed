"""Stage results, named by the digest of what they depend on: whole or absent, verified before use, computed once.

    cache_dir/<stage>/<digest>/            inputs.json (what it depends on, readable), files.json (SHA-256 of each file)
    cache_dir/<stage>/<digest>.partial/    work in progress; a killed stage goes on from its checkpoint there
    cache_dir/<stage>/<digest>.lock        two jobs that need the same stage at the same time do it once

`python -m simu.cache ls|show|verify|prune` looks after it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from simu.store.files import digest, file_digest, write_json

log = logging.getLogger(__name__)

INPUTS, FILES, CHECKPOINT = "inputs.json", "files.json", "checkpoint"


@dataclass(frozen=True)
class Entry:
    """A finished stage."""

    stage: str
    digest: str
    folder: Path
    cached: bool
    """It was there already."""
    seconds: float
    """Spent computing it, by whoever did."""


@dataclass(frozen=True)
class Cache:
    root: Path

    def stage(self, name: str, inputs: Mapping[str, Any], compute: Callable[[Path], None]) -> Entry:
        """The folder of stage `name` for `inputs`, computed by `compute(folder)` where it is not there and whole.

        `compute` may keep checkpoints in folder/'checkpoint'; they are removed when it returns.
        """
        key = digest(inputs)
        folder = self.root / name / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{key}.lock"), f"{name} {key}"):
            if folder.is_dir():
                if not (fault := faults(folder)):
                    return Entry(name, key, folder, True, _seconds(folder))
                log.warning("cache: %s/%s is damaged (%s); computing it again", name, key, fault)
                shutil.rmtree(folder)
            partial = folder.with_name(f"{key}.partial")
            partial.mkdir(exist_ok=True)
            start = time.perf_counter()
            compute(partial)
            seconds = time.perf_counter() - start
            _seal(partial, {"stage": name, "inputs": dict(inputs), "seconds": round(seconds, 3)})
            os.replace(partial, folder)
            return Entry(name, key, folder, False, seconds)


class _locked:
    """A file lock that says when it has to wait."""

    def __init__(self, path: Path, what: str):
        self.lock, self.what = FileLock(path), what

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            log.info("cache: another run is computing %s; waiting for it", self.what)
            self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _seal(folder: Path, inputs: Mapping[str, Any]) -> None:
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    write_json(folder / INPUTS, inputs)
    (folder / FILES).unlink(missing_ok=True)
    write_json(folder / FILES, {str(p.relative_to(folder)): file_digest(p) for p in _files(folder)})


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILES)


def _seconds(folder: Path) -> float:
    return float(json.loads((folder / INPUTS).read_text()).get("seconds", 0.0))


def faults(folder: Path) -> str:
    """What is wrong with a finished stage: '' where every file is there with the content it was sealed with."""
    try:
        sealed = json.loads((folder / FILES).read_text())
    except (OSError, ValueError):
        return f"{FILES} is missing or unreadable"
    for name, expected in sealed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_digest(path) != expected:
            return f"{name} is altered or truncated"
    return ""
