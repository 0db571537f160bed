"""From the inputs of a stage to its address: what the result is a function of, as plain JSON, and the digest of that.

Fields marked KNOB are left out: they cannot change a result. Components go by their name and fields, with their code;
rows, tensors and model folders by their content, never by a path.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from simu.fields import knobs
from simu.store.code import code_digest
from simu.store.files import canonical, digest, tensor_digest, text_digest
from simu.types import Example


def describe(value: Any) -> Any:
    """A value as JSON has it: equal where results must be equal.

    What has an `identity()` says itself what it is (an artifact by its digest, a model by its content). Raises
    TypeError for anything whose content is not known, a path above all.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if callable(getattr(value, "identity", None)):
        return value.identity()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"component": type(value).__name__, **fields(value)}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        rows = bool(value) and all(isinstance(item, Example) for item in value)
        return {"rows": len(value), "digest": rows_digest(value)} if rows else [describe(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(describe(item) for item in value)
    if type(value).__module__.startswith("torch") and hasattr(value, "untyped_storage"):
        return {"tensor": tensor_digest(value)}
    raise TypeError(
        f"{type(value).__name__} {value!r} has no identity: a stage's inputs are plain values, components, "
        "rows, tensors and artifacts"
    )


def fields(component: Any) -> dict[str, Any]:
    """Field → value of a dataclass, without knobs."""
    left_out = knobs(type(component))
    names = (f.name for f in dataclasses.fields(component) if f.init and f.name not in left_out)
    return {name: describe(getattr(component, name)) for name in names}


def rows_digest(rows: tuple[Example, ...] | list[Example]) -> str:
    """SHA-256 (hex) of the rows' fields, in order, as canonical JSON. Training sees the order, so it counts."""
    return text_digest("".join(canonical(dataclasses.asdict(row)) + "\n" for row in rows))


def components(value: Any) -> Iterator[str]:
    """Modules of the classes of simu that a value is made of; an artifact's own are in its digest already."""
    if callable(getattr(value, "identity", None)):
        yield from getattr(value, "modules", ())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__module__
        for f in dataclasses.fields(value):
            yield from components(getattr(value, f.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from components(item)
    elif isinstance(value, tuple | list) and not (value and isinstance(value[0], Example)):
        for item in value:
            yield from components(item)


@dataclasses.dataclass(frozen=True)
class Address:
    """Where the result of a stage belongs."""

    stage: str
    inputs: dict[str, Any]
    """Readable: inputs.json."""

    @property
    def digest(self) -> str:
        return digest({"stage": self.stage, **self.inputs})


def address(stage: str, module: str, inputs: Any) -> Address:
    """Of the stage that `module` computes from the frozen dataclass `inputs`."""
    code = code_digest({module, *(name for name in components(inputs) if name.split(".")[0] == "simu")})
    return Address(stage, {"inputs": fields(inputs), "code": code})
