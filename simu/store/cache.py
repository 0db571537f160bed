"""Stage results, named by the digest of what they depend on: whole or absent, verified before use, computed once.

    cache_dir/<stage>/<digest>/            inputs.json (what it depends on, readable), files.json (SHA-256 of each file)
    cache_dir/<stage>/<digest>.partial/    work in progress; a killed stage goes on from its checkpoint there
    cache_dir/<stage>/<digest>.damaged/    an entry that was not what its manifest says, moved aside
    cache_dir/<stage>/<digest>.lock        two jobs that need the same stage at the same time do it once
    cache_dir/<stage>/<digest>.use         held by every process that works with the entry, so that no prune removes it

An entry is exactly its manifest: a file more, a file less or another byte is damage.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from simu.store.files import MODE, file_digest, read_json, remove, write_json
from simu.store.identity import Address

try:
    import fcntl
except ImportError:  # no POSIX locks: `prune` then goes by age alone
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

INPUTS, FILES, CHECKPOINT = "inputs.json", "files.json", "checkpoint"
ASIDE = (".partial", ".damaged")
LIBRARIES = ("torch", "transformers", "tokenizers")
"""Recorded with an entry; a hit that another version computed says so."""


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

    def stage(self, address: Address, compute: Callable[[Path], None]) -> Entry:
        """The folder of a stage's result, computed by `compute(folder)` where it is not there and whole.

        `compute` may keep checkpoints in folder/'checkpoint'; they are removed when it returns.
        """
        name, key = address.stage, address.digest
        folder = self.root / name / key
        if not _writable(folder.parent) and folder.is_dir():  # a shared cache that this user may only read
            hold(folder)
            if not faults(folder):
                return self._hit(address, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{key}.lock"), f"{name} {key}"):
            hold(folder)
            if os.path.lexists(folder):
                if not (fault := faults(folder)):
                    return self._hit(address, folder)
                aside = folder.with_name(f"{key}.damaged")
                log.warning("cache: %s/%s is damaged (%s): moved aside, computed again", name, key, fault)
                remove(aside)
                folder.rename(aside)
            partial = _clean(folder.with_name(f"{key}.partial"))
            _say_other_code(address, folder)
            write_json(partial / INPUTS, {"stage": name, **address.inputs})
            start = time.perf_counter()
            compute(partial)
            seconds = time.perf_counter() - start
            _seal(partial, {"stage": name, **address.inputs, "seconds": round(seconds, 3), "versions": versions()})
            os.replace(partial, folder)
            return Entry(name, key, folder, False, seconds)

    def _hit(self, address: Address, folder: Path) -> Entry:
        record = read_json(folder / INPUTS)
        before, seconds = record.get("versions"), record.get("seconds")
        named = before.items() if isinstance(before, dict) else ()
        if other := [f"{k} {v}" for k, v in named if versions().get(k) != v]:
            log.info("cache: %s %s was computed with %s", address.stage, address.digest, ", ".join(other))
        spent = float(seconds) if isinstance(seconds, int | float) else 0.0
        return Entry(address.stage, address.digest, folder, True, spent)


def versions() -> dict[str, str]:
    """Of the libraries that a result may depend on."""
    return {name: metadata.version(name) for name in LIBRARIES}


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _clean(partial: Path) -> Path:
    """The partial folder, made anew but for its checkpoint: whatever else a killed run left may be half written."""
    if partial.is_symlink() or not partial.is_dir():
        remove(partial)
    partial.mkdir(exist_ok=True)
    for path in partial.iterdir():
        if path.name != CHECKPOINT or path.is_symlink() or not path.is_dir():
            remove(path)
    return partial


def _say_other_code(address: Address, folder: Path) -> None:
    """Work of a stopped run that differs in nothing but its code is not gone on with, and that is said."""
    for left in sorted(folder.parent.glob("*.partial")):
        try:
            before = read_json(left / INPUTS)
        except ValueError:
            continue
        if before.get("code") in (None, address.inputs.get("code")):
            continue
        if _settings(before.get("inputs")) != _settings(address.inputs.get("inputs")):
            continue
        with unused(left) as stopped:
            if stopped and (left / CHECKPOINT).is_dir():
                log.info("%s: the code has changed since %s was stopped: from the start", address.stage, left.name)
                return


def _settings(inputs: Any) -> Any:
    """A stage's inputs without the digests of the stages before it, which follow the code."""
    if isinstance(inputs, dict):
        kept = {key for key in inputs if not (key == "digest" and "stage" in inputs)}
        return {key: _settings(inputs[key]) for key in kept}
    return [_settings(item) for item in inputs] if isinstance(inputs, list) else inputs


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    """A file lock that says when it has to wait."""
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("cache: another run is computing %s; waiting for it", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    if path.is_symlink() or path.is_dir():
        remove(path)  # nobody holds that
    return FileLock(path, mode=MODE)


_HELD: dict[Path, Any] = {}


def hold(folder: Path) -> None:
    """Mark an entry as in use until `let_go` or this process's end: `prune` leaves it alone."""
    path = folder.with_name(f"{folder.name}.use")
    if fcntl is None or path in _HELD:
        return
    if path.is_dir():
        remove(path)
    try:
        handle = path.open("a" if _writable(path) else "r")
    except FileNotFoundError:  # of a cache that may only be read
        return
    fcntl.flock(handle, fcntl.LOCK_SH)
    _HELD[path] = handle


def let_go() -> None:
    """A run has ended: its entries are in use no longer. A sweep's thousand jobs share one process."""
    while _HELD:
        _HELD.popitem()[1].close()


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no process computes or uses the entry (`<digest>` or one of its folders aside); none can inside."""
    bare = folder.with_name(folder.name.split(".")[0])
    lock = _lock(bare.with_name(f"{bare.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield _free(bare.with_name(f"{bare.name}.use"))
    finally:
        lock.release()


def _free(path: Path) -> bool:
    if fcntl is None or not path.exists():
        return True
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _seal(folder: Path, record: dict[str, Any]) -> None:
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    write_json(folder / INPUTS, record)
    (folder / FILES).unlink(missing_ok=True)
    write_json(folder / FILES, {str(p.relative_to(folder)): file_digest(p) for p in files_of(folder)})


def files_of(folder: Path) -> list[Path]:
    """What a manifest lists: every file, links and empty folders too (which no entry has)."""
    found = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir() or not any(p.iterdir())]
    return sorted(p for p in found if p != folder / FILES)


def faults(folder: Path) -> str:
    """What is wrong with a finished stage: '' where it is exactly what it was sealed as."""
    if folder.is_symlink() or not folder.is_dir():
        return "not a folder"
    try:
        sealed = read_json(folder / FILES)
        read_json(folder / INPUTS)
        return _differs(folder, sealed)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _differs(folder: Path, sealed: dict[str, Any]) -> str:
    if INPUTS not in sealed:
        return f"{FILES} is no manifest"
    for name, expected in sealed.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return f"{name} is {'not a file' if os.path.lexists(path) else 'missing'}"
        if file_digest(path) != expected:
            return f"{name} is altered or truncated"
    more = {str(p.relative_to(folder)) for p in files_of(folder)} - set(sealed)
    return f"{min(more)} does not belong to it" if more else ""
