"""Presets: printed and searched values, each for the combination of options that it was printed or found for.

conf/preset/MODEL-DATA[-METHOD].yaml holds, by slot and option, what the paper's Tables 3 and 4 print or a documented
search found. `register` gives them to Hydra, one node for each slot and option, and conf/config.yaml picks a node where
model, data, method and the slot's option are the preset's: so a value applies only while the slot still holds the
option that it belongs to, `--cfg job` shows it, and the command line wins over it.

    objective: {graddiff-ce: {retain_weight: 2.0}}      # of objective=graddiff objective/retain=ce
    mask: {dual: {t: 0.3}, random: {t: 0.3}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from simu.types import UserError

SLOTS = ("data", "attribution", "mask", "objective", "optimizer", "training")
"""Slots that a preset may speak of, as conf/config.yaml lists them."""

Node = Mapping[str, Any]


def register(conf: Path) -> None:
    """Make the presets of a conf folder known to Hydra. Raises UserError for a preset that is not as said above."""
    store = ConfigStore.instance()
    for name, slot, option, values in read(conf):
        store.store(group=f"preset/{slot}", name=f"{name}-{option}", node={slot: dict(values)}, package="_global_")


def read(conf: Path) -> Iterator[tuple[str, str, str, Node]]:
    """(preset, slot, option, values) of every file in conf/preset/."""
    for path in sorted((conf / "preset").glob("*.yaml")):
        try:
            loaded = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, UnicodeError) as error:
            raise UserError(f"{path}: broken YAML ({' '.join(str(error).split())[:200]})") from error
        if not isinstance(loaded, dict) or not all(k in SLOTS and isinstance(v, dict) for k, v in loaded.items()):
            raise UserError(f"{path}: allowed are the slots {', '.join(SLOTS)}, each with its options")
        for slot, options in loaded.items():
            for option, values in options.items():
                if not isinstance(values, dict):
                    raise UserError(f"{path}: {slot}.{option}: allowed is a mapping of the option's keys")
                yield path.stem, slot, str(option), {key: _number(value) for key, value in values.items()}


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as a text."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value) else value


def taken(conf: Path, choices: Mapping[str, str], config: Node) -> dict[str, Any]:
    """'mask.t' → value, of the preset values that a composed config holds (those that nothing overrode)."""
    nodes = {(slot, f"{name}-{option}"): values for name, slot, option, values in read(conf)}
    found: dict[str, Any] = {}
    for slot in SLOTS:
        held = config.get(slot) or {}
        for group in (f"preset/{slot}", f"preset/{slot}@method"):
            for key, value in nodes.get((slot, str(choices.get(group))), {}).items():
                if held.get(key) == value:
                    found[f"{slot}.{key}"] = value
    return found
