"""Find finished runs under some paths, and know each by its config, never by its folder's name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open

from simu.types import UserError

SCHEMA = 1
MARKS = ("provenance.json", "metrics.json", ".hydra/config.yaml")  # any one of them makes a folder a run
NOT_SETTINGS = ("device", "cache_dir", "stages", "tracker", "save_model", "dry_run", "hydra", "preset")
"""Run-level keys that do not change what is computed; the run's seed and the parents of paths are left out as well."""
NOT_RESULTS = ("evaluator.max_batch_tokens", "evaluator.bootstrap", "evaluator.bootstrap_seed",
               "attribution.max_memory", "attribution.recompute")  # fmt: skip
"""Keys of slots that change speed, memory or an interval, but no value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One finished run, as its folder tells it."""

    path: Path
    config: dict[str, Any]
    """The composed config, interpolations resolved where they could be."""
    metrics: dict[str, float]
    """metrics.json; empty where the run stopped before its evaluation on purpose."""
    provenance: dict[str, Any]
    seeded: frozenset[str] = frozenset()
    """Keys whose value is an interpolation of the run's seed: they follow it, so they tell no two configs apart."""
    choices: dict[str, str] = field(default_factory=dict)
    """slot → option, as Hydra recorded it (or as the components' names have it)."""
    overrides: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        return int(self.config.get("seed") or 0)

    @property
    def model(self) -> str:
        return self._name("model")

    @property
    def data(self) -> str:
        return self._name("data")

    @property
    def method(self) -> str:
        return self._name("method")

    @property
    def mask(self) -> str:
        """The mask's option; 'all weights' where the selection reads no mask."""
        if self.choices.get("selection") == "all":
            return "all weights"
        return self.choices.get("mask") or self._name("mask")

    def settings(self) -> dict[str, object]:
        """Every setting that the result depends on, flat: {'mask.t': 0.3, …}; without seeds."""
        kept: dict[str, object] = {}
        for key, value in flatten(self.config):
            leaf = key.rsplit(".", 1)[-1]
            if key.split(".", 1)[0] in NOT_SETTINGS or key in ("seed", *NOT_RESULTS, *self.seeded):
                continue
            kept[key] = Path(value).name if isinstance(value, str) and leaf in ("path", "dir") else value
        return kept

    def generations(self) -> list[dict[str, Any]]:
        """The rows of generations.jsonl; none where the file is missing."""
        return list(_json_lines(self.path / "generations.jsonl"))

    def training(self) -> list[dict[str, Any]]:
        """The rows of train_log.jsonl; none where the file is missing."""
        return list(_json_lines(self.path / "train_log.jsonl"))

    def tensor(self, file: str, name: str) -> NDArray[np.float32] | None:
        """One tensor [L, D] of a safetensors file as float32, else None."""
        try:
            with safe_open(self.path / file, framework="pt") as store:
                return store.get_tensor(name).float().numpy() if name in store.keys() else None  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def report(self) -> dict[str, Any]:
        """mask_report.json; empty where it is missing."""
        return _json_object(self.path / "mask_report.json") or {}

    def _name(self, slot: str) -> str:
        node = self.config.get(slot)
        if isinstance(node, Mapping):
            return str(node.get("name") or self.choices.get(slot) or _option(node) or "?")
        return str(node) if node is not None else "?"


@dataclass(frozen=True)
class Skipped:
    """What could not be read, and why, in one line."""

    path: Path
    reason: str


def collect(paths: Iterable[Path | str]) -> tuple[list[Run], list[Skipped]]:
    """Read every run under `paths`. A path without runs and a run that cannot be used are named, the rest is read.

    Raises UserError where no usable run is left.
    """
    runs: dict[Path, Run] = {}
    skipped: list[Skipped] = []
    for path in map(Path, paths):
        if not path.is_dir():
            skipped.append(Skipped(path, "not a folder" if path.exists() else "no such folder"))
            continue
        folders = list(run_folders(path))
        if not folders:
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
        first = f"; the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
        raise UserError(f"no finished run under {', '.join(map(str, paths))}{first}")
    return kept, skipped


def run_folders(root: Path) -> Iterator[Path]:
    """Folders below `root` (itself included) that hold a run, in the order of their names; nested sweeps too."""
    for folder, children, _ in os.walk(root):
        here = Path(folder)
        if any((here / mark).is_file() for mark in MARKS):
            children.clear()
            yield here
        children[:] = sorted((c for c in children if not c.startswith(".") and c != "wandb"), key=_natural)


def read(folder: Path) -> Run | Skipped:
    """One run folder, or the reason why it cannot be used."""
    if not (folder / "provenance.json").is_file():
        return Skipped(folder, "half-written: no provenance.json (the run was stopped, or is still going)")
    provenance = _json_object(folder / "provenance.json")
    if provenance is None:
        return Skipped(folder, "half-written: provenance.json is not whole JSON")
    if provenance.get("schema") != SCHEMA:
        return Skipped(
            folder, f"schema {provenance.get('schema', 'unknown')}: this report reads schema {SCHEMA}; rerun"
        )
    if provenance.get("status") == "running":
        return Skipped(folder, "half-written: the run was stopped, or is still going")
    if provenance.get("status") != "completed":
        reason = " ".join(str(provenance.get("reason") or "no reason recorded").split())
        return Skipped(folder, f"{provenance.get('status', 'unknown status')}: {reason}")
    config, raw = (_config(folder / ".hydra" / "config.yaml", resolve) for resolve in (True, False))
    if config is None or raw is None:
        return Skipped(folder, "half-written: .hydra/config.yaml is missing or not a config")
    metrics = _json_object(folder / "metrics.json")
    evaluated = any(str(stage).startswith("evaluation") for stage in provenance.get("stages") or ())
    if metrics is None and (evaluated or (folder / "metrics.json").exists()):
        return Skipped(folder, "half-written: metrics.json is missing or not whole JSON")
    numbers = {str(k): float(v) for k, v in (metrics or {}).items() if isinstance(v, int | float)}
    choices = {slot: name for slot, node in config.items() if isinstance(node, Mapping) and (name := _option(node))}
    hydra = _config(folder / ".hydra" / "hydra.yaml", resolve=False) or {}
    recorded = (hydra.get("hydra", hydra).get("runtime") or {}).get("choices") or {}
    choices |= {str(k): str(v) for k, v in recorded.items() if v is not None}
    seeded = frozenset(key for key, value in flatten(raw) if isinstance(value, str) and "${seed}" in value)
    return Run(path=folder, config=config, metrics=numbers, provenance=provenance, seeded=seeded, choices=choices,
               overrides=_overrides(folder))  # fmt: skip


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """('mask.t', 0.3), … of a nested config, keys in order; a list is one value; '1e-5' is the number it means."""
    for key in sorted(node, key=str):
        value, name = node[key], f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list):
            yield name, json.dumps(value)
        elif isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value):
            yield name, float(value)  # YAML 1.1 reads 1e-5 as a text
        else:
            yield name, value


def _newest(runs: list[Run]) -> tuple[list[Run], list[Skipped]]:
    """Of several runs with one config and one seed only the last that finished counts."""
    latest: dict[str, Run] = {}
    skipped: list[Skipped] = []
    for run in sorted(runs, key=lambda run: str(run.provenance.get("finished") or "")):
        key = json.dumps([run.seed, bool(run.metrics), run.settings()], sort_keys=True, default=str)
        if key in latest:
            skipped.append(Skipped(latest[key].path, f"same config and seed as {run.path}, which is newer"))
        latest[key] = run
    kept = set(map(id, latest.values()))
    return [run for run in runs if id(run) in kept], skipped


def _option(node: Mapping[str, Any]) -> str | None:
    """CriticalDual → critical_dual: the option's name where Hydra's record is missing."""
    target = node.get("_target_")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(target).rsplit(".", 1)[-1]).lower() if target else None


def _config(path: Path, resolve: bool) -> dict[str, Any] | None:
    try:
        loaded = OmegaConf.load(path)
    except Exception:  # a YAML scanner has many ways to say that a file is not one
        return None
    try:
        values = OmegaConf.to_container(loaded, resolve=resolve)
    except OmegaConfBaseException:  # an interpolation that only the run itself can resolve (${hydra:…}, ${now:…})
        values = OmegaConf.to_container(loaded, resolve=False)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else None


def _overrides(folder: Path) -> tuple[str, ...]:
    try:
        listed = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    except Exception:
        return ()
    return tuple(map(str, listed)) if isinstance(listed, list) else ()


def _json_object(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        try:
            if line.strip():
                yield json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number}: not JSON ({error})") from error


def _natural(name: str) -> list[object]:
    """'10' after '9'."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
