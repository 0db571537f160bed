"""python -m simu.cache ls|show|verify|prune: looks after the stage cache."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from simu.console import forgiving
from simu.store.cache import ASIDE, INPUTS, faults, files_of, unused
from simu.store.files import read_json, remove


def entries(root: Path) -> Iterator[Path]:
    """Every stage below `root` that was finished, damaged ones too."""
    yield from (path for path in sorted(root.glob("*/*")) if re.fullmatch("[0-9a-f]{20}", path.name))


def left_aside(root: Path) -> Iterator[Path]:
    """Work that was not finished, and damaged entries that were moved aside."""
    yield from (folder for suffix in ASIDE for folder in sorted(root.glob(f"*/*{suffix}")))


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir())


def _seconds(folder: Path) -> str:
    try:
        return f"{float(read_json(folder / INPUTS)['seconds']):8.1f} s to compute"
    except (ValueError, KeyError, TypeError):
        return f"damaged: {faults(folder) or 'no time recorded'}"


def _ls(root: Path, _: argparse.Namespace) -> int:
    found, aside = list(entries(root)), list(left_aside(root))
    for folder in found:
        age = (time.time() - folder.lstat().st_mtime) / 86400
        size = _size(folder) / 2**20
        print(f"{folder.parent.name:<12} {folder.name}  {size:9.2f} MiB  {age:6.1f} days  {_seconds(folder)}")
    for folder in aside:
        print(f"{folder.parent.name:<12} {folder.name}  {_size(folder) / 2**20:9.2f} MiB")
    more = f", {len(aside)} unfinished or moved aside" if aside else ""
    print(f"{len(found)} stages, {sum(map(_size, found)) / 2**20:.1f} MiB in {root}{more}")
    return 0


def _show(root: Path, args: argparse.Namespace) -> int:
    matches = [f for f in entries(root) if f.name.startswith(args.digest)]
    if not matches:
        print(f"simu.cache: no stage whose digest starts with {args.digest!r} in {root}", file=sys.stderr)
        return 2
    for folder in matches:
        try:
            inputs = json.dumps(read_json(folder / INPUTS), indent=2, sort_keys=True, ensure_ascii=False)
        except ValueError as error:
            inputs = str(error)
        print(f"{folder}\n{inputs}")
        print("\n".join(f"{p.lstat().st_size:>12}  {p.relative_to(folder)}" for p in files_of(folder)))
    return 0


def _verify(root: Path, _: argparse.Namespace) -> int:
    found = list(entries(root))
    bad = [(f, fault) for f in found if (fault := faults(f))]
    for folder, fault in bad:
        print(f"{folder.parent.name}/{folder.name}: {fault}")
    print(f"{len(found)} stages read, {len(bad)} damaged (a run computes those again)")
    return 1 if bad else 0


def _prune(root: Path, args: argparse.Namespace) -> int:
    limit = time.time() - args.days * 86400
    old = [f for f in (*entries(root), *left_aside(root)) if f.lstat().st_mtime <= limit]
    freed, removed = 0, 0
    for folder in (f for f in old if args.stage in (None, f.parent.name)):
        with unused(folder) as free:
            if not free:
                print(f"left {folder.parent.name}/{folder.name}: a run works with it")
                continue
            freed, removed = freed + _size(folder), removed + 1
            print(f"{'would remove' if args.dry_run else 'removed'} {folder.parent.name}/{folder.name}")
            if not args.dry_run:
                remove(folder)
    print(f"{removed} folders, {freed / 2**20:.1f} MiB {'would be freed' if args.dry_run else 'freed'}")
    return 0


def main(argv: list[str] | None = None) -> int:
    forgiving()
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
    prune = commands.add_parser("prune", help="remove what was computed long ago and no run works with")
    prune.add_argument("--days", type=float, default=30.0, help="older than this many days (default 30)")
    prune.add_argument("--stage", help="only this stage, e.g. unlearning")
    prune.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    prune.set_defaults(run=_prune)
    args = parser.parse_args(argv)
    if not args.dir.expanduser().is_dir():
        print(f"simu.cache: no cache in {args.dir}; give its folder with --dir", file=sys.stderr)
        return 2
    try:
        return int(args.run(args.dir.expanduser(), args))
    except OSError as error:
        print(f"simu.cache: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
