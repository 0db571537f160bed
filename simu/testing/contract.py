"""How checks are run, and those that every component has to pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from annotated_types import Interval

from simu.fields import alternatives, bare, hints, knobs, marks
from simu.types import FieldError

Check = Callable[[Any], None]
"""Given what `run_checks` was given. Its name is the check's name, its docstring what it asks."""


def run_checks(
    component: object, given: object, checks: Sequence[Check], expected_failed_checks: Mapping[str, str] | None
) -> None:
    """Call each of `checks` on `given`. Raise AssertionError for the first that fails and for one that was expected to
    fail and does not, ValueError for an expected failure of no check's name."""
    expected = dict(expected_failed_checks or {})
    if unknown := expected.keys() - {check.__name__ for check in checks}:
        known = ", ".join(check.__name__ for check in checks)
        raise ValueError(f"expected_failed_checks: no check is called {', '.join(sorted(unknown))}; there are {known}")
    for check in checks:
        name, failure = f"{type(component).__name__}: {check.__name__}", failure_of(check, given)
        if failure is not None and check.__name__ not in expected:
            raise AssertionError(f"{name}: {failure}") from failure
        if failure is None and check.__name__ in expected:
            reason = expected[check.__name__]
            raise AssertionError(f"{name}: holds, but is expected to fail ({reason}): take it out of the expected ones")


def failure_of(check: Check, given: object) -> Exception | None:
    """What the check found amiss; an error that the component raised is that, too."""
    try:
        check(given)
    except AssertionError as error:
        return error
    except Exception as error:
        wrapped = AssertionError(f"raised {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return wrapped
    return None


def is_frozen(component: Any) -> None:
    """A frozen dataclass whose fields are named when it is made."""
    params = getattr(type(component), "__dataclass_params__", None)
    assert params is not None, "is no dataclass; decorate the class with @component (simu.fields)"
    assert params.frozen, "can be changed after it was made, so a cache key could go stale; decorate with @component"
    positional = [f.name for f in dataclasses.fields(component) if f.init and not f.kw_only]
    assert not positional, f"takes {', '.join(positional)} by position; decorate the class with @component"


def declares_every_field(component: Any) -> None:
    """What it is made of is in its fields, hence in its yaml and in the cache key."""
    cls = type(component)
    fields = dataclasses.fields(component)
    for owner in cls.__mro__[:-1]:
        annotated = vars(owner).get("__annotations__", {})
        loose = [n for n, v in vars(owner).items() if not n.startswith("_") and n not in annotated and is_plain(v)]
        assert not loose, (
            f"{loose[0]} has no annotation, so it is no field: it stands in no yaml and in no cache key; "
            f"write {loose[0]}: TYPE = …, or ClassVar[TYPE] for what never varies"
        )
    hidden = [f.name for f in fields if not f.init]
    assert not hidden, f"{hidden[0]} is a field that no yaml can set (init=False)"
    apart = [f.name for f in fields if not f.compare and f.name not in knobs(cls)]
    assert not apart, f"{apart[0]} is left out of comparisons but carries no KNOB: two settings would look equal"
    extra = vars(component).keys() - {f.name for f in fields}
    assert not extra, f"{min(extra)} is set beside the fields: it stands in no yaml and in no cache key"


def is_plain(value: object) -> bool:
    """A value, as opposed to a method, a property or a class."""
    return not callable(value) and not hasattr(value, "__get__")


def rebuilds_from_its_fields(component: Any) -> None:
    """Made again of its fields it is equal."""
    fields = {f.name: getattr(component, f.name) for f in dataclasses.fields(component)}
    assert type(component)(**fields) == component, "made again of its own fields it is another"


def bounds_its_numbers(component: Any) -> None:
    """Each number has a range with an upper end, and what lies beyond is refused with a FieldError."""
    for name, hint in hints(type(component)).items():
        for arm in alternatives(hint):
            if bare(arm) not in (int, float):
                continue
            ranges = [mark for mark in (*marks(arm), *marks(hint)) if isinstance(mark, Interval)]
            assert ranges, f"{name} has no range; annotate it with one of simu.fields (Share, Count, Rate, …)"
            assert upper(ranges[0]) is not None, f"{name} has no upper end: say what a machine could hold"
            for bad in beyond(ranges[0], bare(arm)):
                assert refuses(component, name, bad), f"{name}={bad} lies beyond its range and is taken; use @component"


def upper(interval: Interval) -> Any:
    return interval.le if interval.le is not None else interval.lt


def beyond(interval: Interval, kind: type) -> Iterator[float]:
    """Values outside: above the upper end, below the lower, and for a float what is no number."""
    low = interval.ge if interval.ge is not None else interval.gt
    reach: Any = max(abs(upper(interval)), 1)
    yield kind(upper(interval) + reach)
    if low is not None:
        yield kind(low - reach)
    if kind is float:
        yield math.nan


def refuses(component: Any, name: str, value: float) -> bool:
    try:
        dataclasses.replace(component, **{name: value})
    except FieldError:
        return True
    return False


COMPONENT: tuple[Check, ...] = (is_frozen, declares_every_field, rebuilds_from_its_fields, bounds_its_numbers)


def of(attribute: str) -> tuple[Check, ...]:
    """COMPONENT, for `given` that holds the component under a name."""

    def on(check: Check) -> Check:
        def checked(given: Any) -> None:
            check(getattr(given, attribute))

        checked.__name__, checked.__doc__ = check.__name__, check.__doc__
        return checked

    return tuple(on(check) for check in COMPONENT)


def with_other_knobs(component: Any) -> Iterator[tuple[str, Any]]:
    """(field, the component with another value of it) for each field that carries KNOB and has another value."""
    for name in sorted(knobs(type(component))):
        hint = hints(type(component))[name]
        for value in others(hint, getattr(component, name)):
            try:
                yield f"{name}={value!r}", dataclasses.replace(component, **{name: value})
            except FieldError:
                continue  # one field forbids it for the sake of another
            break


def others(hint: Any, held: object) -> Iterator[object]:
    """Other values that an annotation allows: twice and half of a number, the other truth, another choice, null."""
    for arm in alternatives(hint):
        inner = bare(arm)
        if inner is bool:
            yield from (value for value in (True, False) if value is not held)
        elif inner in (int, float):
            number = held if isinstance(held, int | float) and held else 1
            yield from (inner(number * 2), inner(max(1, number // 2)))
        elif get_origin(inner) is Literal:
            yield from (choice for choice in get_args(inner) if choice != held)
        elif inner is type(None) and held is not None:
            yield None
