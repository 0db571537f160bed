"""One finished run, as its folder tells it. Everything that names or tells apart runs is in its provenance.json."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

SLOTS = ("attribution", "mask", "objective", "optimizer", "perturbation", "selection", "training")
"""Slots that say what is done to a model: which option fills one is a setting of the run."""
ALL_WEIGHTS = "all weights"


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a run recorded of itself, and its metrics."""

    path: Path
    benchmark: str
    """Which entry of BENCHMARKS its metrics belong to."""
    model: str
    data: str
    method: str
    seed: int
    options: Mapping[str, str]
    """Slot → option."""
    settings: Mapping[str, object]
    """Every setting that the result depends on, flat: {'mask': 'dual', 'mask.t': 0.3, …}; without seeds."""
    presets: Mapping[str, object]
    """Flat: setting → the value that a preset gave it; what was overridden is not in it."""
    metrics: Mapping[str, float]
    """metrics.json; empty where the run stopped before its evaluation on purpose."""
    provenance: Mapping[str, Any]
    broken: dict[str, str] = field(default_factory=dict)
    """What was wanted of this run and could not be read: file → why. Filled as the report reads."""

    @property
    def mask(self) -> str:
        """The mask's option; 'all weights' where the selection reads no mask."""
        return ALL_WEIGHTS if self.options.get("selection") == "all" else self.options.get("mask", "?")

    @property
    def slots(self) -> frozenset[str]:
        """Settings that are the option of a slot: 'mask', 'objective.retain'."""
        return frozenset(slot.replace("/", ".") for slot in self.options)

    @property
    def warnings(self) -> list[str]:
        """What the run itself warned of."""
        said = self.provenance.get("warnings")
        return [str(line) for line in said] if isinstance(said, list) else []

    def generations(self) -> list[dict[str, Any]]:
        """The rows of generations.jsonl; none where the file is missing, or broken (then `broken` says so)."""
        return self._lines("generations.jsonl", ("split", "id"))

    def training(self) -> list[dict[str, Any]]:
        """The rows of train_log.jsonl; none where the file is missing, or broken (then `broken` says so)."""
        return self._lines("train_log.jsonl", ("step",))

    def tensor(self, file: str, name: str) -> NDArray[np.float32] | None:
        """One tensor [L, D] of a safetensors file as float32; None where there is none (or `broken` says why not)."""
        path = self.path / file
        if not os.path.lexists(path):
            return None
        try:
            if not path.is_file():
                raise OSError("it is no file")
            with safe_open(path, framework="numpy") as store:
                if name not in store.keys():  # noqa: SIM118 - no mapping
                    return None
                values = np.asarray(store.get_tensor(name), dtype=np.float32)
        except (
            OSError,
            SafetensorError,
            TypeError,
            ValueError,
        ) as error:  # TypeError: a number format that numpy lacks
            self.broken[file] = f"cannot be read ({' '.join(str(error).split())})"
            return None
        if values.ndim != 2 or not values.size or not np.isfinite(values).all():
            what = f"of shape {list(values.shape)}" if values.ndim != 2 or not values.size else "not finite"
            self.broken[file] = f"{name} is {what}; allowed is [layers, neurons] of finite numbers"
            return None
        return values

    def _lines(self, file: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
        try:
            return list(json_lines(self.path / file, keys))
        except ValueError as error:
            self.broken[file] = str(error)
            return []


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


def slot_of(key: str) -> str:
    """'mask.t' → 'mask', 'objective.retain' → 'objective'."""
    return key.partition(".")[0]


def mapping(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """node[key] where that is a mapping, else nothing."""
    value = node.get(key)
    return value if isinstance(value, Mapping) else {}


def finite(value: object) -> float | None:
    """A finite number as a float; None for anything else: true and false, NaN, a whole number beyond any float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def text_of(path: Path) -> str:
    """A file's text. Raises ValueError with what is wrong: a folder or a pipe in its place, no permission, no UTF-8."""
    try:
        if os.path.lexists(path) and not path.is_file():
            raise ValueError("is a folder" if path.is_dir() else "is not a file")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError("is missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from error


def json_object(path: Path) -> dict[str, Any] | str:
    """The object in a JSON file, or what is wrong with the file: 'is not whole JSON'."""
    try:
        text = text_of(path)
    except ValueError as error:
        return str(error)
    if not text.strip():
        return "is empty"
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return "is not whole JSON"
    except (ValueError, RecursionError) as error:  # a number of more digits than Python reads; lists in lists in lists
        return f"cannot be read: {str(error).split(';')[0][:100]}"
    return value if isinstance(value, dict) else f"is not a JSON object but {_kind(value)}"


def _kind(value: object) -> str:
    return {"NoneType": "null", "list": "a list", "str": "a text"}.get(type(value).__name__, "a number")


def json_lines(path: Path, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """One object a line, each with `keys`. Raises ValueError with the number of the line that is none."""
    if not os.path.lexists(path):
        return
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON ({str(error).split(';')[0][:100]})") from error
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise ValueError(f"line {number} is no object with {', '.join(keys)}")
        yield row
