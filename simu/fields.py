"""What a field may hold, and whether it can change a result: both said once, in the field's annotation.

    @component
    class Random:
        t: Share = 0.3                                        # a range that has a name
        layers: Annotated[int, between(1, 4096)] = 4          # a range of its own
        max_batch_tokens: Annotated[Count, KNOB] = 16384      # speed or memory, never the result

`config.build` reads the ranges before anything heavy is loaded; a component built from Python checks them as well. The
cache key, the report's grouping and provenance leave out what carries KNOB. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
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
    """A frozen, keyword-only dataclass that raises FieldError for a field out of its annotated range.

    A `__post_init__` of the class runs after that, for what one field cannot say of another.
    """
    own = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        check_ranges(self)
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def hints(cls: type) -> dict[str, Any]:
    """Field → annotation, with its marks and ranges."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {f.name: found[f.name] for f in dataclasses.fields(cls) if f.init}


def knobs(cls: type) -> frozenset[str]:
    """Names of the fields that cannot change a result."""
    return frozenset(name for name, hint in hints(cls).items() if any(isinstance(m, Knob) for m in marks(hint)))


def check_ranges(value: Any) -> None:
    """Raise FieldError for the first field of a dataclass that is out of its range."""
    for name, hint in hints(type(value)).items():
        held = getattr(value, name)
        require(in_range(hint, held), name, held, readable(hint))


def in_range(hint: Any, value: object) -> bool:
    """Whether a number (or each of a tuple's) is in the range that its annotation gives; other values always are."""
    if isinstance(value, tuple | list):
        return all(in_range(one, item) for arm in alternatives(hint) for one in items_of(arm) for item in value)
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
    """tuple[X, ...] → (X,)."""
    inner = bare(hint)
    return typing.get_args(inner)[:1] if typing.get_origin(inner) is tuple else ()


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
            said = words.get(inner, getattr(inner, "__name__", str(inner)))
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
    "Count",
    "Decay",
    "FieldError",
    "GiB",
    "Number",
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
]
