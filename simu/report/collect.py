"""Find finished runs under some paths, and know each by its config, never by its folder's name."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
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
NOT_RESULTS = (
    "evaluator.max_batch_tokens",
    "evaluator.bootstrap",
    "evaluator.bootstrap_seed",
    "attribution.max_memory",
    "attribution.recompute",
    "training.micro_batch_tokens",
    "training.checkpoint_every",
    "training.activation_checkpointing",
)
"""Keys of slots that change speed, memory or an interval, but no value."""
SAME = "same config and seed"


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
    """Of several runs with this config and seed, the fewest that any of them was started with."""
    broken: dict[str, str] = field(default_factory=dict)
    """What was wanted of this run and could not be read: file → why. Filled as the report reads."""

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
        """The rows of generations.jsonl; none where the file is missing, or broken (then `broken` says so)."""
        return self._lines("generations.jsonl", ("split", "id"))

    def training(self) -> list[dict[str, Any]]:
        """The rows of train_log.jsonl; none where the file is missing, or broken (then `broken` says so)."""
        return self._lines("train_log.jsonl", ("step",))

    def tensor(self, file: str, name: str) -> NDArray[np.float32] | None:
        """One tensor [L, D] of a safetensors file as float32; None where there is none (or `broken` says why not)."""
        try:
            with safe_open(self.path / file, framework="pt") as store:
                return store.get_tensor(name).float().numpy() if name in store.keys() else None  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            self.broken[file] = f"cannot be read ({' '.join(str(error).split())})"
            return None

    def preset(self) -> dict[str, object]:
        """The settings of the preset that Hydra recorded for this run, flat; none where this package has no such."""
        return _preset(self.choices.get("preset", ""))

    def report(self) -> dict[str, Any]:
        """mask_report.json; empty where it is missing."""
        found = _json_object(self.path / "mask_report.json")
        return {} if isinstance(found, str) else found

    def _lines(self, file: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
        try:
            return list(_json_lines(self.path / file, keys))
        except ValueError as error:
            self.broken[file] = str(error)
            return []

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
        if any(os.path.isfile(folder / mark) for mark in MARKS):
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
    provenance = _json_object(folder / "provenance.json")
    if isinstance(provenance, str):
        return Skipped(folder, f"half-written: provenance.json {provenance}")
    if (schema := provenance.get("schema")) != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        mend = "a newer version wrote it" if newer else "rerun"
        return Skipped(
            folder, f"schema {'unknown' if schema is None else schema}: this report reads schema {SCHEMA}; {mend}"
        )
    if provenance.get("status") == "running":
        return Skipped(folder, "half-written: the run was stopped, or is still going")
    if provenance.get("status") != "completed":
        reason = " ".join(str(provenance.get("reason") or "no reason recorded").split())
        status = provenance.get("status", "unknown status")
        return Skipped(folder, "a dry run" if status == "dry run" else f"{status}: {reason}")
    config, raw = (_config(folder / ".hydra" / "config.yaml", resolve) for resolve in (True, False))
    if config is None or raw is None:
        return Skipped(folder, "half-written: .hydra/config.yaml is missing, cannot be read or is no config")
    if not isinstance(config.get("seed") or 0, int):
        return Skipped(folder, f"seed {config['seed']!r} in .hydra/config.yaml; allowed is a whole number")
    stages = mapping(provenance, "stages")
    metrics: dict[str, Any] | str = {}
    if any(str(stage).startswith("evaluation") for stage in stages) or os.path.lexists(folder / "metrics.json"):
        metrics = _json_object(folder / "metrics.json")
    if isinstance(metrics, str):
        return Skipped(folder, f"half-written: metrics.json {metrics}")
    numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    odd = [f"{k} ({v!r})" for k, v in metrics.items() if k not in numbers]
    broken = {"metrics.json": f"no number for {', '.join(odd)}; the other metrics count"} if odd else {}
    choices = {slot: name for slot, node in config.items() if isinstance(node, Mapping) and (name := _option(node))}
    hydra = _config(folder / ".hydra" / "hydra.yaml", resolve=False) or {}
    recorded = mapping(mapping(hydra, "hydra"), "runtime")
    choices |= {str(k): str(v) for k, v in mapping(recorded, "choices").items() if v is not None}
    seeded = frozenset(key for key, value in flatten(raw) if isinstance(value, str) and "${seed}" in value)
    return Run(
        path=folder,
        config=config,
        metrics=numbers,
        provenance=provenance,
        seeded=seeded,
        choices=choices,
        overrides=_overrides(folder),
        broken=broken,
    )


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
    same: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.seed, bool(run.metrics), run.settings()], sort_keys=True, default=str)
        same.setdefault(key, []).append(run)
    kept, skipped = [], []
    for one_config in same.values():
        *older, newest = sorted(one_config, key=lambda run: str(run.provenance.get("finished") or ""))
        kept.append(replace(newest, overrides=min((run.overrides for run in one_config), key=len)))
        for run in older:
            equal = "" if _values(run) == _values(newest) else ", and its metrics are not the same"
            skipped.append(Skipped(run.path, f"{SAME} as {newest.path}, which is newer{equal}"))
    return kept, skipped


def _values(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.metrics.items() if not name.endswith(("/ci_low", "/ci_high"))}


@cache
def _preset(name: str) -> dict[str, object]:
    package = Path(__file__).parents[1]
    for conf in (package / "conf", package.parent / "conf"):  # in a wheel, in a checkout
        if name and os.path.isfile(conf / "preset" / f"{name}.yaml"):
            return dict(flatten(_config(conf / "preset" / f"{name}.yaml", resolve=False) or {}))
    return {}


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


def mapping(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """node[key] where that is a mapping, else nothing."""
    value = node.get(key)
    return value if isinstance(value, Mapping) else {}


def _json_object(path: Path) -> dict[str, Any] | str:
    """The object in a JSON file, or what is wrong with the file: 'is not whole JSON'."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError):
        return "is not whole JSON"
    return value if isinstance(value, dict) else "is not a JSON object"


def _json_lines(path: Path, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One object a line, each with `keys`. Raises ValueError with the number of the line that is none."""
    if not os.path.lexists(path):
        return
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"not UTF-8 text ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from error
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise ValueError(f"line {number} is no object with {', '.join(keys)}")
        yield row


def _natural(name: str) -> list[object]:
    """'10' after '9'."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
