"""Find finished runs under some paths, and know each by what it recorded, never by its folder's name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simu.console import inert
from simu.report.defaults import effective, is_class
from simu.report.run import SLOTS, Run, finite, flatten, json_object, mapping, slot_of
from simu.store.claim import abandoned
from simu.types import UserError

SCHEMA = 2
MARKS = ("provenance.json", "metrics.json", ".hydra/config.yaml")  # any one of them makes a folder a run
SAME = "same config and seed"
RUNNING = "half-written: the run was stopped, or is still going"
MANY, LONGEST = 5, 40  # metrics without a number that are named, and letters of what stands in a number's place


@dataclass(frozen=True)
class Skipped:
    """What could not be read, and why, in one line."""

    path: Path
    reason: str


class NothingFinished(UserError):
    """No usable run is left; `skipped` says why not."""

    def __init__(self, paths: Iterable[Path | str], skipped: Sequence[Skipped]):
        first = f": {skipped[0].path}: {skipped[0].reason}" if len(skipped) == 1 else ""
        super().__init__(f"no finished run under {', '.join(map(str, paths))}{first}")
        self.skipped = skipped


def collect(paths: Iterable[Path | str]) -> tuple[list[Run], list[Skipped]]:
    """Read every run under `paths`. A path without runs and a run that cannot be used are named, the rest is read.

    Raises NothingFinished where no usable run is left.
    """
    runs: dict[Path, Run] = {}
    skipped: list[Skipped] = []
    for path in map(Path, paths):
        if not os.path.isdir(path):
            skipped.append(Skipped(path, "not a folder" if os.path.lexists(path) else "no such folder"))
            continue
        unread: list[Skipped] = []
        folders = list(run_folders(path, unread))
        skipped += [one for one in unread if one not in skipped]
        if not folders and not unread:
            skipped.append(Skipped(path, f"no run in it (a run has one of {', '.join(MARKS)})"))
        for folder in folders:
            if folder.resolve() not in runs:
                found = read(folder)
                if isinstance(found, Run):
                    runs[folder.resolve()] = found
                elif found not in skipped:
                    skipped.append(found)
    kept, replaced = _newest(list(runs.values()))
    skipped += replaced
    if not kept:
        raise NothingFinished(paths, skipped)
    return kept, skipped


def run_folders(root: Path, unread: list[Skipped] | None = None) -> Iterator[Path]:
    """Folders below `root` (itself included) that hold a run, in the order of their names; nested sweeps and links too.

    A folder that cannot be listed is added to `unread`.
    """
    seen: set[str] = set()

    def walk(folder: Path) -> Iterator[Path]:
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder that was looked at, its own parent perhaps
            return
        seen.add(real)
        if any(os.path.lexists(folder / mark) for mark in MARKS):
            yield folder
            return
        try:
            names = os.listdir(folder)
        except OSError as error:
            if unread is not None:
                unread.append(Skipped(folder, f"cannot be listed: {error.strerror}"))
            return
        for name in sorted((n for n in names if not n.startswith(".") and n != "wandb"), key=_natural):
            if os.path.isdir(folder / name):
                yield from walk(folder / name)

    yield from walk(root)


def read(folder: Path) -> Run | Skipped:
    """One run folder, or the reason why it cannot be used."""
    if not os.path.lexists(folder / "provenance.json"):
        return Skipped(folder, "half-written: no provenance.json (the run was stopped, or is still going)")
    provenance = harmless(json_object(folder / "provenance.json"))
    if isinstance(provenance, str):
        return Skipped(folder, f"half-written: provenance.json {provenance}")
    if reason := _unusable(provenance):
        gone = reason == RUNNING and abandoned(folder)
        return Skipped(folder, "stopped: its process has gone" if gone else reason)
    metrics: dict[str, Any] | str = {}
    stages = mapping(provenance, "stages")
    if any(str(stage).startswith("evaluation") for stage in stages) or os.path.lexists(folder / "metrics.json"):
        metrics = harmless(json_object(folder / "metrics.json"))
    if isinstance(metrics, str):
        return Skipped(folder, f"half-written: metrics.json {metrics}")
    numbers = {k: number for k, v in metrics.items() if (number := finite(v)) is not None}
    odd = [f"{k} ({str(v)[:LONGEST]})" for k, v in metrics.items() if k not in numbers]
    more = f" and {len(odd) - MANY} more" if len(odd) > MANY else ""
    broken = {"metrics.json": f"no number for {', '.join(odd[:MANY])}{more}; the other metrics count"} if odd else {}
    switches = mapping(provenance, "switches")
    typed = {str(slot): str(name) for slot, name in mapping(provenance, "options").items() if name is not None}
    settings = dict(flatten(mapping(provenance, "settings")))
    options = effective(typed, settings)
    return Run(
        path=folder,
        benchmark=str(provenance["benchmark"]),
        model=_name(switches, options, "model"),
        data=_name(switches, options, "data"),
        method=str(provenance.get("method") or _name(switches, options, "method")),
        seed=int(switches.get("seed") or 0),
        options=options,
        settings=_settings(settings, provenance.get("seeded"), typed, options),
        presets=dict(flatten(mapping(provenance, "presets"))),
        metrics=numbers,
        provenance=provenance,
        broken=broken,
    )


def harmless(value: Any) -> Any:
    """A JSON value with every text and key inert: whatever a run is called, nothing that reads it need take care."""
    if isinstance(value, str):
        return inert(value)
    if isinstance(value, dict):
        return {inert(key): harmless(item) for key, item in value.items()}
    return [harmless(item) for item in value] if isinstance(value, list) else value


def _unusable(provenance: Mapping[str, Any]) -> str:
    """Why a run with this record is left out; '' where it is not."""
    if (schema := provenance.get("schema")) != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        mend = "a newer version wrote it" if newer else "rerun"
        return f"schema {'unknown' if schema is None else schema}: this report reads schema {SCHEMA}; {mend}"
    status = provenance.get("status", "unknown status")
    if status == "running":
        return RUNNING
    if status == "dry run":
        return "a dry run"
    if status != "completed":
        return f"{status}: {' '.join(str(provenance.get('reason') or 'no reason recorded').split())}"
    lacking = [key for key in ("settings", "options", "switches") if not isinstance(provenance.get(key), Mapping)]
    lacking += [] if isinstance(provenance.get("benchmark"), str) else ["benchmark"]
    if lacking:
        return f"half-written: provenance.json has no {', '.join(lacking)}"
    if not isinstance(seed := provenance["switches"].get("seed") or 0, int):
        return f"seed {str(seed)[:LONGEST]!r} in provenance.json; allowed is a whole number"
    return ""


def _name(switches: Mapping[str, Any], options: Mapping[str, str], slot: str) -> str:
    return str(mapping(switches, slot).get("name") or options.get(slot) or "?")


def _settings(
    settings: Mapping[str, object], seeded: object, typed: Mapping[str, str], options: Mapping[str, str]
) -> dict[str, object]:
    """The run's own list of settings without those that follow its seed, a path as its last part. Instead of classes
    the options that they are of: for slots that say what is done to a model, for others where it is not the one typed.
    """
    left = {"seed", *(map(str, seeded) if isinstance(seeded, list) else ())}
    kept: dict[str, object] = {}
    for key, value in settings.items():
        if key not in left and not (is_class(key) and slot_of(key) in options):
            is_path = isinstance(value, str) and key.rsplit(".", 1)[-1] in ("path", "dir")
            kept[key] = Path(str(value)).name if is_path else value
    said = (slot for slot, option in options.items() if slot.split("/")[0] in SLOTS or option != typed[slot])
    return kept | {slot.replace("/", "."): options[slot] for slot in said}


def _newest(runs: list[Run]) -> tuple[list[Run], list[Skipped]]:
    """Of several runs with one config and one seed only the last that finished counts."""
    same: dict[str, list[Run]] = {}
    for run in runs:
        told_by = [run.seed, bool(run.metrics), run.benchmark, run.model, run.data, run.method, run.settings]
        same.setdefault(json.dumps(told_by, sort_keys=True, default=str), []).append(run)
    kept, skipped = [], []
    for one_config in same.values():
        *older, newest = sorted(one_config, key=lambda run: str(run.provenance.get("finished") or ""))
        kept.append(newest)
        for run in older:
            equal = "" if _values(run) == _values(newest) else ", and its metrics are not the same"
            skipped.append(Skipped(run.path, f"{SAME} as {newest.path}, which is newer{equal}"))
    return kept, skipped


def _values(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.metrics.items() if not name.endswith(("/ci_low", "/ci_high"))}


def _natural(name: str) -> list[object]:
    """'10' after '9'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
