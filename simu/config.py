"""The typed run schema, and `build`: from a node of the composed config to its component.

Every slot is a frozen dataclass whose fields are the keys of its yaml. The class is the schema: `build` refuses
fields that it does not have (naming the nearest), values of another type, and values out of range, in one line that
starts with the key as the user typed it. All slots are built before any weight is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from simu.types import FieldError, UserError, require

STAGES = ("target", "attribution", "mask", "unlearning", "evaluation")
SLOTS = (
    "model",
    "data",
    "attribution",
    "mask",
    "objective",
    "optimizer",
    "selection",
    "training",
    "evaluator",
    "tracker",
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method is a bundle over the slots; what is left of it in a run is its name."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Number formats. float64 is for checks."""

    weights: Literal["float32", "bfloat16", "float64"]
    """What the model's weights are held and multiplied in."""
    master: bool
    """Keep float32 masters and moments of what trains when the weights are bfloat16."""
    tf32: bool
    """Let CUDA matrix products of float32 use TF32."""

    @property
    def dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[self.weights]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, whole and checked: the pipeline is a function of this object alone."""

    model: Any
    data: Any
    attribution: Any
    mask: Any
    objective: Any
    optimizer: Any
    selection: Any
    training: Any
    evaluator: Any
    tracker: Any
    method: Method
    precision: Precision
    seed: int
    device: str
    stages: tuple[str, ...]
    cache_dir: str
    save_model: bool
    retain_reference: bool
    dry_run: bool

    def __post_init__(self) -> None:
        known = self.stages and set(self.stages) <= set(STAGES)
        require(bool(known), "stages", list(self.stages), f"a list of {', '.join(STAGES)}")
        require(bool(self.cache_dir), "cache_dir", self.cache_dir, "a folder")
        require(self.seed >= 0, "seed", self.seed, "a whole number ≥ 0")
        kind = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device)
        require(bool(kind), "device", self.device, "auto, cpu, mps, cuda or cuda:N")

    def torch_device(self) -> torch.device:
        """The device to work on; `auto` takes CUDA where there is one."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda" if gpus else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= gpus:
            raise UserError(
                f"device={self.device}: this machine has {gpus or 'no'} CUDA device{'s' * (gpus > 1)}; "
                "allowed here: auto, cpu"
            )
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise UserError(f"device={self.device}: this machine has no MPS device; allowed here: auto, cpu")
        return device


def conf_dir() -> Path:
    """Where the config groups are: $SIMU_CONF, else inside the installed package, else the checkout's conf/."""
    if chosen := os.environ.get("SIMU_CONF"):
        if not (Path(chosen) / "config.yaml").is_file():
            raise UserError(f"SIMU_CONF={chosen}: no config.yaml there; allowed is a folder like the project's conf/")
        return Path(chosen).resolve()
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The composed config with every interpolation resolved, as plain dicts and lists."""
    if not isinstance(config, DictConfig):
        return dict(config)
    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error


def build_run(config: DictConfig | Mapping[str, Any]) -> RunConfig:
    """Build and check all slots and run-level keys of a composed config. Raises UserError, one line."""
    values = plain(config)
    built = {slot: build(values.get(slot), slot) for slot in SLOTS}
    rest = {key: value for key, value in values.items() if key not in SLOTS}
    return typing.cast(RunConfig, _construct(RunConfig, built | rest, ""))


def build(node: object, path: str) -> Any:
    """Make the component that `node['_target_']` names from the node's other keys.

    `path` is the slot as the user types it ('mask'); it prefixes every error. Raises UserError.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path}={node!r}: allowed is one of the options in conf/{path}/")
    fields = {str(k): v for k, v in node.items() if k != "_target_"}
    return _construct(_locate(str(node["_target_"]), path), fields, path)


def _locate(target: str, path: str) -> type:
    if not target.startswith("simu."):
        raise UserError(f"{path}._target_={target}: allowed are components of simu only (simu.…)")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path}._target_={target}: no such component ({error})") from error
    if not dataclasses.is_dataclass(found):
        raise UserError(f"{path}._target_={target}: not a component (a dataclass)")
    return typing.cast(type, found)


def _construct(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """cls(**values), after checking names and types field by field; nested dataclasses come from nested mappings."""
    prefix = f"{path}." if path else ""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in fields:
            raise UserError(f"{prefix}{name}: {cls.__name__} has no such field{nearest(name, fields)}")
    for name, f in fields.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{prefix}{name}: missing; {cls.__name__} needs it")
    hints = typing.get_type_hints(cls)
    ready = {name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()}
    try:
        return cls(**ready)
    except FieldError as error:
        raise UserError(f"{prefix}{error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` checked against the annotation `hint`: strict types, lists become tuples, mappings become dataclasses."""
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value, path)
    nested = next((h for h in _alternatives(hint) if dataclasses.is_dataclass(h)), None)
    if nested is not None and isinstance(value, Mapping):
        return _construct(typing.cast(type, nested), value, path)
    given = value
    if isinstance(value, list) and any(typing.get_origin(h) is tuple for h in _alternatives(hint)):
        value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if isinstance(value, str) and float in _alternatives(hint) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-5 as a text
    try:
        strict = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
        return TypeAdapter(hint, config=strict).validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(f"{path}={given!r}: allowed is {_readable(hint)}") from error


def _alternatives(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _readable(hint: Any) -> str:
    """An annotation in a user's words: Literal['a', 'b'] | None → 'a, b or null'."""
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", type(None): "null"}
    parts: list[str] = []
    for h in _alternatives(hint):
        if typing.get_origin(h) is Literal:
            parts += [str(a) for a in typing.get_args(h)]
        elif typing.get_origin(h) is tuple:
            inner, *more = typing.get_args(h)
            count = "" if more == [...] else f"{1 + len(more)} "
            parts.append(f"a list of {count}" + re.sub("^a (.*)", r"\1s", _readable(inner)))
        else:
            parts.append(words.get(h, str(h).replace("typing.", "")))
    return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean 'x'?' where something near is known, else what is known, as far as a line holds it."""
    names = list(known)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(names))}" if len(names) <= 30 else "; `--cfg job` prints every key"
