"""Keyword arguments as the command line's words."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from simu.types import UserError


def words(overrides: Mapping[str, object], taken: Collection[str]) -> list[str]:
    """`{"mask": "random", "optimizer__lr": 1e-4}` → ['mask=random', 'optimizer.lr=0.0001']; slots before their keys.

    `taken` are slots that the caller fills itself. Raises UserError for one of these.
    """
    found = []
    for name, value in overrides.items():
        key = name.replace("__", ".")
        key = key.replace(".", "/", 1) if key == "objective.retain" else key  # a slot within a slot
        if key.split(".")[0] in taken:
            raise UserError(f"{name}: is given by the model and the rows at hand; allowed are the other keys of a run")
        found.append(f"{key}={word(value)}")
    return sorted(found, key=lambda said: "." in said.partition("=")[0])


def word(value: object) -> str:
    """A value in Hydra's grammar: texts are quoted, lists and mappings written out."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {word(held)}" for name, held in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(word, value)) + "]"
    if isinstance(value, str):
        plain = value.replace("_", "").isalnum() and value.lower() not in ("true", "false", "null")
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value, default=str)
