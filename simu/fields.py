"""What a field may hold, and whether it can change a result: both said once, in the field's annotation.

    @component
    class Random:
        t: Share = 0.3                                        # a range that has a name
        layers: Annotated[int, between(1, 4096)] = 4          # a range of its own
        max_batch_tokens: Annotated[Count, KNOB] = 16384      # speed or memory, never the result
        path: Place | None = None                             # a file or folder: `~` is the home folder

`config.build` reads the ranges before anything heavy is loaded; a component built from Python checks them as well. The
cache key, the report's grouping and provenance leave out what carries KNOB. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import types
import typing
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from annotated_types import Interval

from simu.types import FieldError, require

C = TypeVar("C")


class Knob:
    """The type of the mark KNOB."""

    def __repr__(self) -> str:
        return "KNOB"


KNOB = Knob()
"""Marks a field that changes speed, memory, waiting or watching, and cannot change a result: equal bytes without it."""


class Located:
    """The type of the mark PATH."""

    def __repr__(self) -> str:
        return "PATH"

    def fits(self, text: str) -> bool:
        """Whether a file system can be asked for it (Linux: 4095 bytes, 255 a part)."""
        raw = os.fsencode(text)
        return 0 < len(raw) < 4096 and all(len(part) < 256 for part in raw.split(b"/"))


PATH = Located()
"""Marks a text that names a file or folder (or, where there is no such folder, a hub id): `~` is the home folder."""


@dataclass(frozen=True)
class AtMost:
    """A whole number that a size of the model limits, which is known before its weights are loaded."""

    size: Literal["last layer", "width", "number of neurons", "number of neurons a layer"]


def between(low: float, high: float) -> Interval:
    """low ≤ value ≤ high."""
    return Interval(ge=low, le=high)


def above(low: float, high: float) -> Interval:
    """low < value ≤ high."""
    return Interval(gt=low, le=high)


Share = Annotated[float, between(0, 1)]
PositiveShare = Annotated[float, above(0, 1)]
Count = Annotated[int, between(1, 2**40)]
"""Of rows, tokens, steps: one at least."""
Number = Annotated[int, between(0, 2**40)]
"""As Count, or none."""
Seed = Annotated[int, between(0, 2**63 - 1)]
Layer = Annotated[int, between(0, 4095), AtMost("last layer")]
"""A layer's number, from 0."""
Place = Annotated[str, PATH]
Rate = Annotated[float, above(0, 1e3)]
"""A learning rate."""
Decay = Annotated[float, Interval(ge=0, lt=1)]
"""Of a running mean: what it keeps of itself each step."""
Weight = Annotated[float, between(0, 1e9)]
"""Of a term of a sum."""
Positive = Annotated[float, above(0, 1e9)]
GiB = Annotated[float, above(0, 2**20)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[C]) -> type[C]:
    """A frozen, keyword-only dataclass that raises FieldError for a field out of its annotated range, and in whose
    paths `~` is the home folder.

    A `__post_init__` of the class runs after that, for what one field cannot say of another.
    """
    own = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        expand_paths(self)
        check_ranges(self)
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def hints(cls: type) -> dict[str, Any]:
    """Field → annotation, with its marks and ranges."""
    return _hints(typing.cast(Hashable, cls))


@cache
def _hints(cls: Any) -> dict[str, Any]:
    found = typing.get_type_hints(cls, include_extras=True)
    return {f.name: found[f.name] for f in dataclasses.fields(cls) if f.init}


def knobs(cls: type) -> frozenset[str]:
    """Names of the fields that cannot change a result."""
    return frozenset(name for name, hint in hints(cls).items() if any(isinstance(m, Knob) for m in marks(hint)))


def paths(cls: type) -> frozenset[str]:
    """Names of the fields that hold a file or folder."""
    found = hints(cls).items() if dataclasses.is_dataclass(cls) else ()
    return frozenset(name for name, hint in found if is_path(hint))


def expand_paths(value: Any) -> None:
    """Put the home folder in place of `~` and `~name` in the paths of a dataclass that is being made."""
    for name, hint in hints(type(value)).items():
        held = getattr(value, name)
        if (found := _expanded(hint, held)) != held:
            object.__setattr__(value, name, found)


def _expanded(hint: Any, held: Any) -> Any:
    arms = alternatives(hint)
    if isinstance(held, Mapping):
        inner = next((typing.get_args(a)[1] for a in map(bare, arms) if typing.get_origin(a) is dict), None)
        return {key: _expanded(inner, item) for key, item in held.items()}
    return os.path.expanduser(held) if is_path(hint) and isinstance(held, str) else held


def is_path(hint: Any) -> bool:
    """Whether an annotation is of a text that names a file or folder."""
    return any(isinstance(mark, Located) for arm in (hint, *alternatives(hint)) for mark in marks(arm))


def limits(value: Any, path: str = "") -> Iterator[tuple[str, int, AtMost]]:
    """('objective.forget.layer', 7, AtMost("last layer")): the numbers in a component, and in those it holds, that the
    model's sizes limit. Where other fields decide which size that is, the component's own method `limits` says it."""
    for name, mark in value.limits() if hasattr(value, "limits") else ():
        yield f"{path}.{name}" if path else name, getattr(value, name), mark
    for name, hint in hints(type(value)).items():
        held, key = getattr(value, name), f"{path}.{name}" if path else name
        if dataclasses.is_dataclass(held):
            yield from limits(held, key)
        elif isinstance(held, int):
            found = (mark for arm in alternatives(hint) for mark in marks(arm))
            yield from ((key, held, mark) for mark in found if isinstance(mark, AtMost))


def narrow(seed: int) -> int:
    """A seed for a generator that reads 32 bits of it alone, as torch's on the CPU: itself where it fits; of a larger
    one all bits count (the first 32 of its SHA-256)."""
    return seed if 0 <= seed < 2**32 else int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")


def check_ranges(value: Any) -> None:
    """Raise FieldError for the first field of a dataclass that is out of its range."""
    for name, hint in hints(type(value)).items():
        held = getattr(value, name)
        require(in_range(hint, held), name, held, readable(hint))


def in_range(hint: Any, value: object) -> bool:
    """Whether a number (or each of a list's or a mapping's) is in the range that its annotation gives, and a path one
    that can be; other values always are."""
    if isinstance(value, tuple | list | Mapping):
        items = value.values() if isinstance(value, Mapping) else value
        return all(in_range(one, item) for arm in alternatives(hint) for one in items_of(arm) for item in items)
    if isinstance(value, str):
        return all(mark.fits(value) for arm in alternatives(hint) for mark in marks(arm) if isinstance(mark, Located))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return all(_holds(r, value) for arm in alternatives(hint) for r in marks(arm) if isinstance(r, Interval))


def _holds(r: Interval, value: float) -> bool:
    low = value >= r.ge if r.ge is not None else r.gt is None or value > r.gt  # type: ignore[operator]
    high = value <= r.le if r.le is not None else r.lt is None or value < r.lt  # type: ignore[operator]
    return bool(low and high)


def marks(hint: Any) -> Iterator[Any]:
    """What Annotated says beside the type, through nested Annotated and, for a union, of the whole alone."""
    yield from getattr(hint, "__metadata__", ())


def bare(hint: Any) -> Any:
    """The type without what Annotated says beside it."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def alternatives(hint: Any) -> tuple[Any, ...]:
    """int | None → (int, None); ranges of the whole union go with each arm that has none of its own."""
    inner = bare(hint)
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        return typing.get_args(inner)
    return (hint,)


def items_of(hint: Any) -> tuple[Any, ...]:
    """tuple[X, ...] → (X,); dict[str, X] → (X,)."""
    inner = bare(hint)
    found = typing.get_args(inner)
    return {tuple: found[:1], dict: found[1:]}.get(typing.get_origin(inner), ())


def readable(hint: Any) -> str:
    """An annotation in a user's words: Literal['a', 'b'] | None → 'a, b or null'; Share → 'a number, 0 ≤ x ≤ 1'."""
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", type(None): "null"}
    parts: list[str] = []
    for arm in alternatives(hint):
        inner = bare(arm)
        if typing.get_origin(inner) is Literal:
            parts += [str(a) for a in typing.get_args(inner)]
        elif typing.get_origin(inner) is tuple:
            item, *more = typing.get_args(inner)
            count = "" if more == [...] else f"{1 + len(more)} "
            parts.append(f"a list of {count}" + re.sub(r"^a ((whole |finite )?\w+)", r"\1s", readable(item)))
        else:
            is_path = any(isinstance(m, Located) for m in marks(arm))
            said = "a folder or file" if is_path else words.get(inner, getattr(inner, "__name__", str(inner)))
            parts.append(said + "".join(_range(r) for r in marks(arm) if isinstance(r, Interval)))
    return " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _range(r: Interval) -> str:
    """', 0 < x ≤ 1'"""
    low = f"{_number(r.ge)} ≤ " if r.ge is not None else f"{_number(r.gt)} < " if r.gt is not None else ""
    high = f" ≤ {_number(r.le)}" if r.le is not None else f" < {_number(r.lt)}" if r.lt is not None else ""
    return f", {low}x{high}"


def _number(bound: Any) -> str:
    if isinstance(bound, int) and bound >= 10**6:
        power = bound.bit_length() - (bound & (bound - 1) == 0)
        return f"2^{power}" if bound == 2**power else f"2^{power} − 1" if bound == 2**power - 1 else str(bound)
    return f"{bound:g}"


__all__ = [
    "KNOB",
    "PATH",
    "Count",
    "Decay",
    "FieldError",
    "GiB",
    "Layer",
    "Number",
    "Place",
    "Positive",
    "PositiveShare",
    "Rate",
    "Seed",
    "Share",
    "Weight",
    "above",
    "between",
    "check_ranges",
    "component",
    "knobs",
    "narrow",
    "paths",
]
