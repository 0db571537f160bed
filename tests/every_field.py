"""Every field of every option, and the values that tests put into it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import zip_longest
from typing import Any

from hydra import compose, initialize_config_dir

from simu.checks import check_sizes
from simu.cli.messages import one_line
from simu.config import SLOTS, build_run, check_run, conf_dir, plain
from simu.dryrun import describe
from simu.pipeline import read_rows
from simu.types import UserError

Config = dict[str, Any]
Key = tuple[str, ...]

GROUPS = (*SLOTS, "objective/retain")


@cache
def default() -> Config:
    """The default run."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return plain(compose("config"))


@cache
def configs() -> tuple[Config, ...]:
    """Composed configs in which each option of each slot stands once at least."""
    options = {slot: sorted(path.stem for path in (conf_dir() / slot).glob("*.yaml")) for slot in GROUPS}
    found = [default()]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for chosen in zip_longest(*options.values()):
            words = [f"{slot}={option}" for slot, option in zip(options, chosen, strict=True) if option]
            found.append(plain(compose("config", overrides=words)))
    return tuple(found)


@cache
def fields() -> tuple[tuple[int, Key], ...]:
    """(which config, key) of each field of each option, each once."""
    found: dict[tuple[str, Key], tuple[int, Key]] = {}
    for i, config in enumerate(configs()):
        for key in _keys(config):
            found.setdefault(
                (str((config.get(key[0]) or {}).get("_target_")) if key[0] in SLOTS else "", key), (i, key)
            )
    return tuple(found.values())


def _keys(node: Mapping[str, Any], above: Key = ()) -> Iterator[Key]:
    for name, value in node.items():
        yield (*above, name)
        if isinstance(value, Mapping):
            yield from _keys(value, (*above, name))


@cache
def components() -> tuple[Config, ...]:
    """A component of each slot, as a node."""
    return tuple(configs()[0][slot] for slot in SLOTS)


NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    2**31,
    2**32,
    2**62,
    2**63,
    10**5000,
    0.5,
    1.5,
    -0.0,
    1e-300,
    1e12,
    1e308,
    *map(float, ("nan", "inf", "-inf")),
)
TEXTS = (
    "fp16",
    "",
    " ",
    "~",
    "../..",
    "a\nb",
    "é",
    "x" * 10_000,
    "/".join("x" * 5000),
    "\0",
    "\ud800",
    "1e9",
    "<b>",
    "${seed}",
)
OTHERS = (None, True, False, [], [1, "a", None], [[]], {}, {"a": 1}, {1: 2}, {"x" * 10_000: 1}, [10**5000])
TARGETS = tuple(
    {"_target_": t} for t in (None, 5, "os.system", "simu.", "simu..x", "simu.masks.Random", "a\nb", "simu.run.main")
)


def values() -> tuple[Any, ...]:
    """What a field may be given."""
    return (*NUMBERS, *TEXTS, *OTHERS, *TARGETS, *components())


def changed(config: Config, key: Key, value: Any) -> Config:
    """A copy with another value."""
    made = copy.deepcopy(config)
    node = made
    for name in key[:-1]:
        node = node[name]
    node[key[-1]] = value
    return made


def refusal(config: Config) -> str | None:
    """What is said of a config before anything is computed; None where it is valid, down to the plan of a dry run."""
    try:
        check_run(config)
        cfg = build_run(config)
        splits = read_rows(cfg)
        check_sizes(cfg)
        describe(cfg, splits)
    except UserError as error:
        return one_line(error)
    return None
