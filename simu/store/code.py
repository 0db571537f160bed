"""The code as an input: a digest of what a module does, so that nobody has to remember to raise a version.

The digest is over the syntax trees, without comments, docstrings and layout, of a module and of all modules of simu
that it imports, directly or not; an import statement counts by what the imported module does. So it changes with any
line that could run, and with nothing else: not with a file's place, nor with what only a type checker reads
(`if TYPE_CHECKING`). Faces of packages (`__init__.py`, re-exports only) are looked through, name by name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from simu.store.files import text_digest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT.name


def code_digest(modules: Iterable[str]) -> str:
    """Of all that the named modules could run, whatever their order: 20 hex digits. Others than simu's are skipped."""
    return text_digest("\n".join(sorted({_linked(name) for name in closure(modules)})))[:20]


def closure(modules: Iterable[str]) -> set[str]:
    """The named modules of simu and all that they import, directly or not."""
    found: set[str] = set()
    todo = [name for name in modules if _file(name) is not None]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += imports(name)
    return found


@cache
def _alone(name: str) -> str:
    """Digest of a module whatever its imports of simu are."""
    return text_digest("".join(_words(_tree(_existing(name)), name, linked=False)))


@cache
def _linked(name: str) -> str:
    """Digest of a module in which an import of simu stands for what the imported module does, not for where it is."""
    return text_digest("".join(_words(_tree(_existing(name)), name, linked=True)))


@cache
def imports(name: str) -> frozenset[str]:
    """The simu modules that a module names in its import statements, faces looked through."""
    nodes = _executed(_tree(_existing(name)))
    return frozenset(
        target for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for target in _targets(node, name)
    )


def _file(name: str) -> Path | None:
    first, *rest = name.split(".")
    if first != PACKAGE:
        return None
    base = ROOT.joinpath(*rest)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _existing(name: str) -> Path:
    file = _file(name)
    if file is None:
        raise ValueError(f"{name}: no module of simu")
    return file


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not _checking(node):
            yield node
            yield from _executed(node)


def _checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _words(node: ast.AST, module: str, linked: bool) -> Iterator[str]:
    """The tree as text: the kinds of nodes and what they hold, empty fields left out (they differ between Pythons)."""
    if _checking(node) or _is_docstring(node):
        return
    yield f"({type(node).__name__}"
    if isinstance(node, ast.Import | ast.ImportFrom) and (targets := _targets(node, module)):
        bound = (f"{alias.name.rpartition('.')[2]} {alias.asname}" for alias in node.names)
        yield ",".join((*bound, *(_alone(target) for target in targets if linked))) + ")"
        return
    for field, value in ast.iter_fields(node):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield f" {field}="
                yield from _words(item, module, linked)
            elif item is not None and field not in ("type_comment", "kind"):
                yield f" {field}={item!r}"
    yield ")"


def _is_docstring(node: ast.AST) -> bool:
    """Any text that stands alone as a statement does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _targets(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    """The simu modules that an import statement brings in, in the order of its names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
    base = node.module or ""
    if node.level:
        raise ValueError(f"{module}: a relative import; simu's modules name each other in full")
    if base.split(".")[0] != PACKAGE:
        return []
    return [target for alias in node.names if (target := _home(base, alias.name)) is not None]


def _home(base: str, name: str) -> str | None:
    """The module that `from base import name` is about: a module of that name, or where a face has the name from."""
    if _file(f"{base}.{name}") is not None:
        return f"{base}.{name}"
    file = _file(base)
    if file is None or file.name != "__init__.py":
        return base
    home, _ = where_is(base, name)
    return None if home == PACKAGE else home  # simu's own face: version and environment, no result


def where_is(base: str, name: str) -> tuple[str, str]:
    """(module, name there) of what `from base import name` brings in, faces looked through; no import is run."""
    file = _file(base)
    if file is not None and file.name == "__init__.py":
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == PACKAGE:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return where_is(str(node.module), alias.name)
    return base, name


def source_of(module: str) -> ast.Module | None:
    """The syntax tree of a module of simu; None where there is none."""
    file = _file(module)
    return None if file is None else _tree(file)


def forget_sources() -> None:
    """Read the files anew: for tests that edit them."""
    for known in (_alone, _linked, imports, _tree):
        known.cache_clear()
