"""What a component accepts, known from its class, or from its source alone before anything heavy is imported.

A mistake on the command line (`mask.t=much`) is then said in the time that Hydra takes to compose the config: torch and
transformers take many times longer to load. What a field's annotation cannot say is left to the class.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, Literal

from simu import fields as field_types
from simu import types as nouns
from simu.fields import alternatives, bare, hints, in_range, items_of, readable
from simu.store.code import source_of, where_is
from simu.types import UserError, shown

LIGHT = {**vars(typing), **vars(field_types), **vars(nouns)}
"""Names that an annotation may use without an import of anything heavy."""


class Unknown:
    """The annotation of a field whose type cannot be known from source: any value passes."""


@dataclass(frozen=True)
class Schema:
    """A component's name and fields."""

    name: str
    hints: Mapping[str, Any]
    required: frozenset[str]
    members: frozenset[str] = frozenset()
    """Names of fields, class variables and methods."""

    def check_names(self, values: Mapping[str, Any], path: str) -> None:
        """Raise UserError for a field that there is not, and for one that is missing."""
        prefix = f"{path}." if path else ""
        for name in values:
            if name not in self.hints:
                raise UserError(f"{prefix}{label(name)}: {self.name} has no such field{nearest(name, self.hints)}")
        for name in self.hints:
            if name in self.required and name not in values:
                raise UserError(f"{prefix}{name}: missing; {self.name} needs it")

    def check(self, values: Mapping[str, Any], path: str) -> None:
        """Raise UserError, one line, for the first name or plain value that cannot be."""
        self.check_names(values, path)
        for name, value in values.items():
            check_value(self.hints[name], value, f"{path}.{name}" if path else name)


def check_value(hint: Any, value: Any, path: str) -> None:
    """Check one value of a composed config, nested components by their own source."""
    arms = [bare(arm) for arm in alternatives(hint)]
    if (each := named_components(hint)) and isinstance(value, Mapping):
        for name, node in value.items():
            check_node(node, f"{path}.{name}", None if isinstance(each, Unknown) else each)
    elif (nested := group_of(hint, value, path)) is not None:
        nested.check(value, path)
    elif protocol := next((arm for arm in arms if is_protocol(arm)), None):
        check_node(value, path, protocol)
    elif not any(isinstance(arm, Unknown) for arm in arms):
        convert(hint, value, path)


def named_components(hint: Any) -> Any:
    """The Protocol of a field dict[str, Protocol], which holds components by name (Unknown in source); else None."""
    kinds = [bare(one) for one in items_of(hint)] if typing.get_origin(bare(hint)) is dict else []
    return next((kind for kind in kinds if is_protocol(kind) or isinstance(kind, Unknown)), None)


def check_node(node: Any, path: str, kind: type | None = None) -> None:
    """Check the plain values of a node with a `_target_` in simu, by the source of its component; with `kind`, also
    that it has what this Protocol asks for."""
    target = target_of(node, path)
    module, _, name = target.rpartition(".")
    schema = from_source(module, name)
    if schema is not None:  # else what is wrong with the target is said when it is built
        if kind is not None and (lacking := sorted(members_of(kind) - schema.members)):
            raise UserError(of_another_slot(target, path, f"it has no {lacking[0]}"))
        schema.check(fields_of(node), path)


def target_of(node: Any, path: str) -> str:
    """`_target_` of a component's node. Raises UserError where there is none, or none of simu."""
    options = f"allowed is one of the options in conf/{path.replace('.', '/')}/"
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{path}={shown(node)}: {options}")
    target = node["_target_"]
    if not isinstance(target, str) or not re.fullmatch(r"[\w.]{1,200}", target):
        raise UserError(f"{path}._target_={shown(target)}: no component; {options}")
    return target


def fields_of(node: Mapping[Any, Any]) -> dict[Any, Any]:
    """What a component is made from."""
    return {key: value for key, value in node.items() if key != "_target_"}


def group_of(hint: Any, value: Any, path: str) -> Schema | None:
    """The schema of a field that is a dataclass, as it takes this value; None for a field that is none, for null, and
    for a word that the field takes as well. Raises UserError for anything but a mapping."""
    schemas = [schema_of(bare(arm)) for arm in alternatives(hint)]
    nested = next(filter(None, schemas), None)
    if nested is None or isinstance(value, Mapping):
        return nested
    words = [w for a in map(bare, alternatives(hint)) if typing.get_origin(a) is Literal for w in typing.get_args(a)]
    if (value is None and len(schemas) > 1 and not words) or (isinstance(value, str) and value in words):
        return None
    keys = ", ".join([*(f"{path}.{name}" for name in nested.hints), *words])
    raise UserError(f"{path}={shown(value)}: this is a group; allowed are its keys, {keys}")


def of_another_slot(target: str, path: str, why: str) -> str:
    """The message for a component that does not keep its slot's Protocol."""
    options = f"conf/{path.replace('.', '/')}/"
    return f"{path}._target_={target}: not for this slot ({why}); allowed is one of the options in {options}"


def members_of(protocol: type) -> frozenset[str]:
    """What a Protocol of `simu.slots`, and those it extends, ask for: methods, properties and annotations."""
    protocols = [c for c in protocol.__mro__ if is_protocol(c) and c.__module__ == protocol.__module__]
    stated = {name for c in protocols for name in (*vars(c), *inspect.get_annotations(c))}
    return frozenset(name for name in stated if name == "__call__" or not name.startswith("_"))


def schema_of(kind: Any) -> Schema | None:
    """Of a dataclass; None for any other type."""
    if isinstance(kind, Schema):
        return kind
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    own = [f for f in dataclasses.fields(kind) if f.init]
    needed = frozenset(f.name for f in own if f.default is MISSING and f.default_factory is MISSING)
    return Schema(kind.__name__, hints(kind), needed)


@cache
def from_source(module: str, name: str) -> Schema | None:
    """The schema of a dataclass by what its module's text says. None where it says no such class."""
    home, original = where_is(module, name)
    tree = source_of(home)
    found = [n for n in (tree.body if tree else ()) if isinstance(n, ast.ClassDef) and n.name == original]
    if not found or not _is_component(found[0]):
        return None
    names = _Names(home)
    stated = [n for n in found[0].body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    methods = {n.name for n in found[0].body if isinstance(n, ast.FunctionDef)}
    plain = {t.id for n in found[0].body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    members = frozenset(methods | plain | {n.target.id for n in stated if isinstance(n.target, ast.Name)})
    stated = [n for n in stated if not ast.unparse(n.annotation).startswith(("ClassVar", "typing.ClassVar"))]
    known = {n.target.id: names.read(n.annotation) for n in stated if isinstance(n.target, ast.Name)}
    needed = frozenset(n.target.id for n in stated if n.value is None and isinstance(n.target, ast.Name))
    return Schema(original, known, needed, members)


def _is_component(node: ast.ClassDef) -> bool:
    return any(re.match(r"(dataclasses\.)?(dataclass|component)\b", ast.unparse(d)) for d in node.decorator_list)


class _Names(dict[str, Any]):
    """What the names of a module's annotations mean, found in its text and in the modules of simu that it imports."""

    def __init__(self, module: str):
        super().__init__(LIGHT)
        self.module = module

    def read(self, annotation: ast.expr) -> Any:
        text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
        try:
            return eval(str(text), {"__builtins__": __builtins__}, self)
        except Exception:  # whatever an annotation needs that is not light
            return Unknown()

    def __missing__(self, name: str) -> Any:
        tree = source_of(self.module)
        for node in tree.body if tree else ():
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                return self.read(node.value)
            if isinstance(node, ast.ClassDef) and node.name == name:
                return from_source(self.module, name) or Unknown()
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("simu."):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        home, original = where_is(str(node.module), alias.name)
                        return _Names(home)[original]
        raise KeyError(name)


def is_protocol(kind: Any) -> bool:
    return isinstance(kind, type) and getattr(kind, "_is_protocol", False)


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` checked against the annotation `hint`: strict types and ranges; lists become tuples.

    By hand, as pydantic takes longer to load and to set up than a mistake should take to be told.
    """
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value) and float in map(bare, alternatives(hint)):
        value = float(value)  # YAML 1.1 reads 1e-5 as a text
    for arm in alternatives(hint):
        if (found := _as(bare(arm), value)) is not MISSING and in_range(arm, found) and in_range(hint, found):
            return found
    raise UserError(f"{path}={shown(value)}: allowed is {readable(hint)}")


def _as(kind: Any, value: Any) -> Any:
    """The value as this type has it; MISSING where it is of another."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value if any(value == a and type(value) is type(a) for a in inner) else MISSING
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, list | tuple) and inner[1:] == (...,) else inner
        fits = isinstance(value, list | tuple) and len(value) == len(kinds)
        made = tuple(_item(k, v) for k, v in zip(kinds, value, strict=True)) if fits else (MISSING,)
        return MISSING if MISSING in made else made
    if origin is dict:
        held = value.items() if isinstance(value, Mapping) else [(None, MISSING)]
        made_dict = {k: _item(inner[1], v) if _as(inner[0], k) is not MISSING else MISSING for k, v in held}
        return MISSING if MISSING in made_dict.values() else made_dict
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**1000 else MISSING
    if kind is float:
        return value if isinstance(value, float) and math.isfinite(value) else MISSING
    if kind in (Any, None):
        return value if kind is Any or value is None else MISSING
    if kind is str:
        return value if isinstance(value, str) and is_text(value) else MISSING
    return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else MISSING


def _item(hint: Any, value: Any) -> Any:
    arms = ((arm, _as(bare(arm), value)) for arm in alternatives(hint))
    return next((found for arm, found in arms if found is not MISSING and in_range(arm, found)), MISSING)


def is_text(value: str) -> bool:
    """Whether files can hold it: no NUL, and no half of a surrogate pair."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def label(name: object) -> str:
    """A key in a message."""
    return name if isinstance(name, str) and re.fullmatch(r"[\w./-]{1,100}", name) else shown(name)


def nearest(name: object, known: Iterable[str]) -> str:
    """'; did you mean 'x'?' where something near is known, else what is known, as far as a line holds it."""
    names = list(known)
    if isinstance(name, str) and (close := difflib.get_close_matches(name[:100], names, n=1, cutoff=0.6)):
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(names))}" if len(names) <= 30 else "; `--cfg job` prints every key"
