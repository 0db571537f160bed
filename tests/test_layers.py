"""Who may import what, beyond the layers that import-linter holds (pyproject.toml)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import simu

ROOT = Path(simu.__file__).parent
ALONE = {
    "hydra": {"guard.py", "main.py", "messages.py", "sweeps.py", "presets.py"},
    "wandb": {"tracking.py"},
    "wandb_workspaces": {"dashboard.py"},
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    return packages(ast.parse(file.read_text()))


def packages(tree: ast.AST) -> set[str]:
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {n.partition(".")[0] for n in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


@pytest.mark.parametrize("package", sorted(ALONE))
def test_imported_in_one_place_alone(package):
    users = {file.name for file in ROOT.rglob("*.py") if package in imported(file)}
    assert users
    assert users <= ALONE[package]


def test_types_loads_the_standard_library_alone():
    """What it names of torch and transformers is for the type checker, or for a function that has a tensor already."""
    tree = ast.parse((ROOT / "types.py").read_text())
    loaded = ast.Module([node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))], [])
    assert packages(loaded) <= set(sys.stdlib_module_names)
    assert packages(tree) <= set(sys.stdlib_module_names) | {"torch", "transformers"}
