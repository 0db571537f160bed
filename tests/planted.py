"""For tests of checks: a component with one planted mistake fails the check for it, and no earlier one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Planted = tuple[Any, str, str]
"""(component, the check that it fails, what that says)."""


def assert_fails(check: Callable[..., None], component: Any, name: str, says: str, **options: Any) -> None:
    """The message begins with the component's and the check's names, and names the mistake."""
    with pytest.raises(AssertionError) as error:
        check(component, **options)
    assert str(error.value).startswith(f"{type(component).__name__}: {name}: "), str(error.value)
    assert says in str(error.value)


def planted(*cases: Planted) -> Any:
    """Parametrises a test over (bad, name, says)."""
    ids = [f"{type(component).__name__}-{name}" for component, name, _ in cases]
    return pytest.mark.parametrize(("bad", "name", "says"), cases, ids=ids)
