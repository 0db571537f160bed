"""Whatever a field is given: one line that begins with its slot, or a valid config with the plan of a dry run."""

from __future__ import annotations

import pytest
from annotated_types import Interval
from every_field import changed, configs, fields, refusal, values
from hypothesis import given, settings
from hypothesis import strategies as st

from simu.config import RunConfig, build_run
from simu.fields import alternatives, bare, hints, items_of, marks


def check(place: int, key: tuple[str, ...], value: object) -> None:
    line = refusal(changed(configs()[place], key, value))
    assert line is None or (len(line) < 700 and "\n" not in line and "Traceback" not in line), line


def test_what_the_fields_hold_is_valid():
    """Else a refusal would say nothing of the changed field. Rows of a data set on the hub are out of reach here."""
    said = [refusal(config) for config in configs()]
    assert [line for line in said if line and not line.startswith("data.")] == []
    assert None in said


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.data())
def test_any_value_in_any_field(data):
    place, key = data.draw(st.sampled_from(fields()))
    other = (
        st.integers() | st.floats() | st.text(max_size=50) | st.lists(st.integers() | st.text(max_size=5), max_size=3)
    )
    check(place, key, data.draw(st.sampled_from(values()) | other))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_value_in_every_field():
    for place, key in fields():
        for value in values():
            check(place, key, value)


def bounded(hint: object) -> bool:
    """Whether a number that an annotation allows, or that a list or mapping of it holds, has an upper bound."""
    arms = [one for arm in alternatives(hint) for item in (items_of(arm) or (arm,)) for one in alternatives(item)]
    intervals = [[m for m in (*marks(arm), *marks(hint)) if isinstance(m, Interval)] for arm in arms]
    return all(
        bare(arm) not in (int, float) or any(m.le is not None or m.lt is not None for m in found)
        for arm, found in zip(arms, intervals, strict=True)
    )


def classes(value: object) -> set[type]:
    held = [getattr(value, name) for name in hints(type(value))]
    inner = [classes(item) for item in held if hasattr(type(item), "__dataclass_fields__")]
    return {type(value)}.union(*inner)


def test_every_number_has_an_upper_bound():
    built = [build_run(config) for config in configs()]
    every = set().union(*map(classes, built))
    assert len(every) > 40
    unbounded = [f"{cls.__name__}.{name}" for cls in every for name, hint in hints(cls).items() if not bounded(hint)]
    assert unbounded == []
    assert RunConfig in every
