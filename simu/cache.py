"""Stage results, named by the digest of what they depend on: whole or absent, verified before use, computed once.

    cache_dir/<stage>/<digest>/            inputs.json (what it depends on, readable), files.json (SHA-256 of each file)
    cache_dir/<stage>/<digest>.partial/    work in progress; a killed stage goes on from its checkpoint there
    cache_dir/<stage>/<digest>.lock        two jobs that need the same stage at the same time do it once

`python -m simu.cache ls|show|verify|prune` looks after it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

INPUTS, FILES, CHECKPOINT = "inputs.json", "files.json", "checkpoint"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)


def digest(value: Any) -> str:
    """The first 20 hex digits of SHA-256 over the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all: a temporary file beside it, flushed to disk, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str) + "\n")


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


# ---- python -m simu.cache -------------------------------------------------------------------------------------------


def entries(root: Path) -> Iterator[Path]:
    """Every finished stage below `root`."""
    for inputs in sorted(root.glob(f"*/*/{INPUTS}")):
        if not inputs.parent.name.endswith(".partial"):
            yield inputs.parent


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _ls(root: Path, _: argparse.Namespace) -> int:
    found = list(entries(root))
    for folder in found:
        age = (time.time() - folder.stat().st_mtime) / 86400
        print(
            f"{folder.parent.name:<12} {folder.name}  {_size(folder) / 2**20:9.2f} MiB  {age:6.1f} days  "
            f"{_seconds(folder):8.1f} s to compute"
        )
    print(f"{len(found)} stages, {sum(map(_size, found)) / 2**20:.1f} MiB in {root}")
    return 0


def _show(root: Path, args: argparse.Namespace) -> int:
    matches = [f for f in entries(root) if f.name.startswith(args.digest)]
    if not matches:
        print(f"simu.cache: no stage whose digest starts with {args.digest!r} in {root}", file=sys.stderr)
        return 2
    for folder in matches:
        print(f"{folder}\n{(folder / INPUTS).read_text()}")
        print("\n".join(f"{p.stat().st_size:>12}  {p.relative_to(folder)}" for p in _files(folder)))
    return 0


def _verify(root: Path, _: argparse.Namespace) -> int:
    bad = [(f, fault) for f in entries(root) if (fault := faults(f))]
    for folder, fault in bad:
        print(f"{folder.parent.name}/{folder.name}: {fault}")
    print(f"{len(list(entries(root)))} stages read, {len(bad)} damaged (a run computes those again)")
    return 1 if bad else 0


def _prune(root: Path, args: argparse.Namespace) -> int:
    limit = time.time() - args.days * 86400
    doomed = [
        f for f in entries(root) if f.stat().st_mtime < limit and (args.stage is None or f.parent.name == args.stage)
    ]
    doomed += [p for p in root.glob("*/*.partial") if p.stat().st_mtime < limit]
    freed = sum(map(_size, doomed))
    for folder in doomed:
        print(f"{'would remove' if args.dry_run else 'removed'} {folder.parent.name}/{folder.name}")
        if not args.dry_run:
            shutil.rmtree(folder)
    print(f"{len(doomed)} folders, {freed / 2**20:.1f} MiB {'would be freed' if args.dry_run else 'freed'}")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simu.cache", description="Look after the stage cache.")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(os.environ.get("SIMU_CACHE_DIR", ".cache/simu")),
        help="the run's cache_dir (default: $SIMU_CACHE_DIR or .cache/simu)",
    )
    commands = parser.add_subparsers(required=True, metavar="ls|show|verify|prune")
    commands.add_parser("ls", help="list finished stages, sizes and ages").set_defaults(run=_ls)
    show = commands.add_parser("show", help="what one stage depends on and holds")
    show.add_argument("digest", help="the beginning of a digest, from ls")
    show.set_defaults(run=_show)
    commands.add_parser("verify", help="read every file and compare its hash").set_defaults(run=_verify)
    prune = commands.add_parser("prune", help="remove what was computed long ago")
    prune.add_argument("--days", type=float, default=30.0, help="older than this many days (default 30)")
    prune.add_argument("--stage", help="only this stage, e.g. unlearning")
    prune.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    prune.set_defaults(run=_prune)
    args = parser.parse_args(argv)
    if not args.dir.is_dir():
        print(f"simu.cache: no cache in {args.dir}; give its folder with --dir", file=sys.stderr)
        return 2
    return int(args.run(args.dir, args))


if __name__ == "__main__":
    sys.exit(main())
