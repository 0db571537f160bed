"""What a run has where nobody chose: the option that a method picks for a slot, and a setting's value in its option's
file. Read from conf/ as it is installed; a method or an option of one's own has none, and then nothing is said of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simu.report.run import flatten, mapping

_CONF = tuple(folder / "conf" for folder in Path(__file__).parents[1:3])  # in a wheel, in a checkout


def option_of_method(method: str, slot: str) -> str | None:
    """'simu', 'optimizer' → 'sophia': what the method picks, else what conf/config.yaml has; None: not known."""
    picked = _picks(f"method/{method}")
    if not picked:
        return None
    return (_picks("config") | picked).get(slot.replace(".", "/"))


def value_of_option(method: str, options: Mapping[str, str], key: str) -> object | None:
    """'mask.t' → 0.3: the setting as the method's or the slot's option's file has it; None: neither says."""
    of_method = dict(flatten(_plain(f"method/{method}")))
    if key in of_method:
        return of_method[key]
    for slot, option in options.items():
        name = slot.replace("/", ".")
        if key.startswith(f"{name}."):
            found = dict(flatten(_plain(f"{slot}/{option}"), f"{name}.")).get(key)
            if found is not None and not (isinstance(found, str) and "${" in found):
                return found
    return None


def effective(options: Mapping[str, str], classes: Mapping[str, object]) -> dict[str, str]:
    """Slot → option as the classes say that ran, whatever was typed: `objective.forget._target_=simu.….NPO` is npo.

    `classes`: 'objective.forget._target_' → 'NPO' or 'simu.losses.forget.npo.NPO'. A class that no option's file names
    stands for itself; where a file names none, the option is taken at its word.
    """
    return {slot: _named(slot, option, _of_slot(slot, options, classes)) for slot, option in options.items()}


def _of_slot(slot: str, options: Mapping[str, str], classes: Mapping[str, object]) -> dict[str, str]:
    """The classes of a slot's own component, by their key within the slot: those of a slot inside it are not."""
    start = f"{slot.replace('/', '.')}."
    inner = tuple(f"{other.replace('/', '.')}." for other in options if other.startswith(f"{slot}/"))
    own = {key: name for key, name in classes.items() if key.startswith(start) and not key.startswith(inner or ("\0",))}
    return {key.removeprefix(start): str(name) for key, name in own.items() if is_class(key)}


def _named(slot: str, option: str, classes: Mapping[str, str]) -> str:
    last = {key: name.rpartition(".")[2] for key, name in classes.items()}
    own = _classes(slot, option)
    if not own or not last or own == last:
        return option
    same = (other for other in _options(slot) if _classes(slot, other) == last)
    return next(same, " ".join(name for key, name in classes.items() if own.get(key) != last[key]) or option)


def is_class(key: str) -> bool:
    """Whether a setting says which class a component is of."""
    return key.rpartition(".")[2] == "_target_"


@cache
def _classes(slot: str, option: str) -> Mapping[str, str]:
    """Of an option's file: '_target_' → 'Objective', 'forget._target_' → 'NPO'."""
    plain = flatten(_plain(f"{slot}/{option}"))
    return {key: str(value).rpartition(".")[2] for key, value in plain if is_class(key)}


@cache
def _options(slot: str) -> tuple[str, ...]:
    return tuple(sorted({path.stem for conf in _CONF for path in (conf / slot).glob("*.yaml")}))


@cache
def _picks(file: str) -> dict[str, str]:
    """slot → option of a file's defaults list."""
    listed = _plain(file).get("defaults")
    found: dict[str, str] = {}
    for entry in listed if isinstance(listed, list) else ():
        for slot, option in entry.items() if isinstance(entry, Mapping) else ():
            found[str(slot).removeprefix("override ").strip("/ ")] = str(option)
    return found


@cache
def _plain(file: str) -> Mapping[str, Any]:
    """A yaml file of conf/ as plain values; nothing where there is none (a run may name its method anything)."""
    from omegaconf import OmegaConf

    for conf in _CONF:
        path = conf / f"{file}.yaml"
        if re.fullmatch(r"[\w/-]+", file) and os.path.isfile(path):
            return mapping({file: OmegaConf.to_container(OmegaConf.load(path), resolve=False)}, file)
    return {}
