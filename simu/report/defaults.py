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

    package = Path(__file__).parents[1]
    for conf in (package / "conf", package.parent / "conf"):  # in a wheel, in a checkout
        path = conf / f"{file}.yaml"
        if re.fullmatch(r"[\w/-]+", file) and os.path.isfile(path):
            return mapping({file: OmegaConf.to_container(OmegaConf.load(path), resolve=False)}, file)
    return {}
