"""python -m simu.cache ls|show|verify|prune: looks after the stage cache."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from simu.store.cache import INPUTS, _files, _seconds, faults


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
