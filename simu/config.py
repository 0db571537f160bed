"""The typed run schema, and `build`: from a node of the composed config to its component.

Every slot is a frozen dataclass whose fields are the keys of its yaml, and keeps the slot's Protocol (`simu.slots`).
The class is the schema: `build` refuses a component of another slot, fields that it does not have (naming the nearest),
values of another type and values out of range, in one line that starts with the key as the user typed it. All slots are
built before any weight is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simu import resolvers, slots
from simu.fields import KNOB, Place, Seed, alternatives, bare, component, hints, knobs, paths
from simu.schema import (
    Schema,
    check_node,
    convert,
    fields_of,
    group_of,
    is_protocol,
    members_of,
    named_components,
    nearest,
    of_another_slot,
    schema_of,
    target_of,
)
from simu.types import FieldError, Precision, UserError, require

if TYPE_CHECKING:
    import torch

__all__ = [
    "SLOTS",
    "STAGES",
    "Method",
    "RunConfig",
    "build",
    "build_run",
    "check_run",
    "conf_dir",
    "nearest",
    "plain",
    "settings",
]

resolvers.register()  # a config may be resolved wherever this is imported

Stage = Literal["target", "attribution", "mask", "unlearning", "evaluation", "robustness"]
STAGES: tuple[Stage, ...] = typing.get_args(Stage)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method is a bundle over the slots; what is left of it in a run is its name."""

    name: str


@component
class RunConfig:
    """One run, whole and checked: the pipeline is a function of this object alone."""

    model: slots.Model
    data: slots.Data
    attribution: slots.Attribution
    mask: slots.Mask
    objective: slots.Objective
    optimizer: slots.Optimizer
    perturbation: slots.Perturbation
    selection: slots.Selection
    training: slots.Training
    evaluator: slots.Evaluator
    robustness: slots.Robustness
    tracker: Annotated[slots.Tracker, KNOB]
    method: Method
    precision: Precision
    seed: Seed
    device: Annotated[str, KNOB]
    stages: Annotated[tuple[Stage, ...], KNOB]
    cache_dir: Annotated[Place, KNOB]
    save_model: Annotated[bool, KNOB]
    retain_reference: bool
    dry_run: Annotated[bool, KNOB]

    def __post_init__(self) -> None:
        check_whole({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def torch_device(self) -> torch.device:
        """The device to work on; `auto` takes CUDA where there is one."""
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device == "auto":
            return torch.device("cuda" if gpus else "cpu")
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= gpus:
            held = f"{gpus or 'no'} CUDA device{'s' * (gpus > 1)}"
            raise UserError(f"device={self.device}: this machine has {held}; allowed here: auto, cpu")
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise UserError(f"device={self.device}: this machine has no MPS device; allowed here: auto, cpu")
        return device


SLOTS = tuple(name for name, hint in hints(RunConfig).items() if is_protocol(bare(hint)))


def check_whole(values: Mapping[str, Any]) -> None:
    """What a type cannot say of the run-level keys. Raises FieldError."""
    require(bool(values["stages"]), "stages", [], f"a list of {', '.join(STAGES)}")
    kind = re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", values["device"])
    require(bool(kind), "device", values["device"], "auto, cpu, mps, cuda or cuda:N")


def conf_dir() -> Path:
    """Where the config groups are: $SIMU_CONF, else inside the installed package, else the checkout's conf/."""
    if chosen := os.environ.get("SIMU_CONF"):
        folder = Path(chosen).expanduser()
        if not (folder / "config.yaml").is_file():
            raise UserError(f"SIMU_CONF={chosen}: no config.yaml there; allowed is a folder like the project's conf/")
        return folder.resolve()
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The composed config with every interpolation resolved, as plain dicts and lists, without the preset's marks."""
    if not isinstance(config, DictConfig):
        return dict(config)
    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error


def check_run(config: DictConfig | Mapping[str, Any]) -> None:
    """What `build_run` refuses by type or range, without importing a component. Raises UserError, one line."""
    values = plain(config)
    whole = schema_of(RunConfig)
    assert whole is not None
    whole.check_names(values, "")
    for name, value in values.items():
        if name not in SLOTS:
            Schema("run", {name: whole.hints[name]}, frozenset()).check({name: value}, "")
    try:
        check_whole(values)
    except FieldError as error:
        raise UserError(str(error)) from error
    for slot in SLOTS:
        check_node(values.get(slot), slot, bare(hints(RunConfig)[slot]))


def build_run(config: DictConfig | Mapping[str, Any]) -> RunConfig:
    """Build and check all slots and run-level keys of a composed config. Raises UserError, one line."""
    values = plain(config)
    built = {slot: build(values.get(slot), slot, bare(hints(RunConfig)[slot])) for slot in SLOTS}
    rest = {key: value for key, value in values.items() if key not in SLOTS}
    return typing.cast(RunConfig, _construct(RunConfig, built | rest, ""))


def settings(cfg: RunConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """'mask.t' → 0.3 …: every setting of a composed config that can change a result, flat; without the seed.

    What a component is goes by its name ('mask._target_' → 'Dual'); of a path, and of data's files, the last part, as
    the content counts.
    """
    found: dict[str, Any] = {}

    def walk(held: Any, node: Any, key: str, is_file: bool = False) -> None:
        if isinstance(node, Mapping):
            left_out = knobs(type(held)) if dataclasses.is_dataclass(held) else frozenset()
            if "_target_" in node:
                found[f"{key}._target_"] = type(held).__name__
            files = paths(type(held)) if key == "data" else frozenset()
            for name, value in node.items():
                if name not in left_out and name != "_target_":
                    inner = f"{key}.{name}" if key else str(name)
                    walk(getattr(held, str(name), None), value, inner, name in files or name in ("path", "dir"))
        else:
            found[key] = Path(node).name if isinstance(node, str) and is_file else node

    walk(cfg, values, "")
    found.pop("seed", None)
    return found


def build(node: object, path: str, kind: type | None = None) -> Any:
    """Make the component that `node['_target_']` names from the node's other keys.

    `path` is the slot as the user types it ('mask'); it prefixes every error. `kind`: the Protocol that the component
    must keep. Raises UserError.
    """
    target = target_of(node, path)
    cls = _locate(target, path)
    if kind is not None and (wrong := _not_of(cls, kind)):
        raise UserError(of_another_slot(target, path, wrong))
    return _construct(cls, fields_of(typing.cast(Mapping[str, Any], node)), path)


def _locate(target: str, path: str) -> type:
    if not target.startswith("simu."):
        raise UserError(f"{path}._target_={target}: allowed are components of simu only (simu.…)")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}._target_={target}: no such component ({error})") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(f"{path}._target_={target}: not a component (a dataclass)")
    return found


def _not_of(cls: type, kind: type) -> str:
    """Why a class does not keep a Protocol: a member that it lacks, or other arguments; '' where it does."""
    has = {f.name for f in dataclasses.fields(cls)} | {name for c in cls.__mro__ for name in vars(c)}
    if lacking := sorted(members_of(kind) - has):
        return f"it has no {lacking[0]}"
    theirs, ours = (_arguments(c) for c in (kind, cls))
    return f"it is called with {', '.join(ours) or 'nothing'}, not {', '.join(theirs)}" if theirs != ours else ""


def _arguments(cls: type) -> tuple[str, ...]:
    """Of instances when they are called; () where the class has no __call__ of its own."""
    call = next((vars(c)["__call__"] for c in cls.__mro__ if "__call__" in vars(c)), None)
    return tuple(inspect.signature(call).parameters)[1:] if inspect.isfunction(call) else ()


def _construct(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """cls(**values), after checking names and types field by field; nested dataclasses come from nested mappings."""
    schema = schema_of(cls)
    assert schema is not None
    schema.check_names(values, path)
    prefix = f"{path}." if path else ""
    ready = {name: _convert(schema.hints[name], value, f"{prefix}{name}") for name, value in values.items()}
    try:
        return cls(**ready)
    except FieldError as error:
        raise UserError(f"{prefix}{error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """A value for a field: a nested component or dataclass from a mapping, else checked as it stands."""
    arms = [bare(arm) for arm in alternatives(hint)]
    if (each := named_components(hint)) and isinstance(value, typing.Mapping):
        return {str(name): _convert(each, one, f"{path}.{name}") for name, one in value.items()}
    protocol = next((arm for arm in arms if is_protocol(arm)), None)
    if protocol is not None:
        return value if dataclasses.is_dataclass(value) else build(value, path, protocol)
    if group_of(hint, value, path) is not None:
        return _construct(next(typing.cast(type, arm) for arm in arms if dataclasses.is_dataclass(arm)), value, path)
    return convert(hint, value, path)
