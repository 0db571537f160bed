"""What changes the digest of code, and what does not: on a copy of the package, edited a line at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from simu.store import code

STAGES = ("target", "attribution", "mask", "unlearning", "evaluation")


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    copy = tmp_path / "simu"
    shutil.copytree(code.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", copy)
    code.forget_sources()
    yield copy
    monkeypatch.undo()
    code.forget_sources()


def digests() -> dict[str, str]:
    code.forget_sources()
    return {stage: code.code_digest([f"simu.stages.{stage}"]) for stage in STAGES}


def changed(before: dict[str, str]) -> set[str]:
    now = digests()
    return {stage for stage in STAGES if now[stage] != before[stage]}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("stage", STAGES)
def test_a_line_of_a_stage_changes_that_stage_alone(package, stage):
    before = digests()
    edit(package / "stages" / f"{stage}.py", "    return ", "    1 + 1\n    return ")
    assert changed(before) == {stage}


def test_a_module_changes_the_stages_that_import_it(package):
    before = digests()
    edit(package / "training.py", "    return ", "    1 + 1\n    return ")
    assert changed(before) == {"target", "unlearning"}


def test_a_module_that_is_imported_by_an_imported_one_counts(package):
    assert "simu.gradients" in code.closure(["simu.stages.unlearning"])
    assert "simu.gradients" not in code.imports("simu.stages.unlearning")
    before = digests()
    edit(package / "gradients.py", "    return ", "    1 + 1\n    return ")
    assert "unlearning" in changed(before)
    assert "mask" not in changed(before)


@pytest.mark.parametrize("place", ["stages/unlearning.py", "training.py", "store/files.py"])
def test_comments_docstrings_and_layout_change_nothing(package, place):
    before = digests()
    path = package / place
    path.write_text(path.read_text().replace('"""', '"""Other words. ', 1) + "\n\n\n# a comment\n")
    assert changed(before) == set()


@pytest.mark.parametrize("place", ["report/summary.py", "dashboard.py", "tracking.py", "cli/messages.py", "run.py"])
def test_what_no_stage_imports_changes_nothing(package, place):
    before = digests()
    with (package / place).open("a") as f:
        f.write("\nX = 1\n")
    assert changed(before) == set()


def test_a_moved_file_changes_nothing_and_a_swapped_one_does(package):
    before = digests()
    shutil.move(package / "progress.py", package / "bars.py")
    for path in package.rglob("*.py"):
        path.write_text(path.read_text().replace("simu.progress", "simu.bars"))
    assert changed(before) == set()
    (package / "other.py").write_text((package / "bars.py").read_text() + "\nX = 1\n")
    edit(package / "training.py", "from simu.bars import track", "from simu.other import track")
    assert changed(before) == {"target", "unlearning"}


def test_what_only_a_type_checker_reads_is_no_import(tmp_path, monkeypatch):
    root = tmp_path / "simu"
    root.mkdir()
    (root / "a.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from simu.b import x\n")
    (root / "b.py").write_text("x = 1\n")
    monkeypatch.setattr(code, "ROOT", root)
    code.forget_sources()
    assert code.closure(["simu.a"]) == {"simu.a"}
    monkeypatch.undo()
    code.forget_sources()


def test_every_face_of_a_package_holds_re_exports_only():
    """So that looking through it leaves nothing out."""
    import ast

    for file in code.ROOT.rglob("__init__.py"):
        if file.parent == code.ROOT:
            continue
        kinds = {type(node) for node in ast.parse(file.read_text()).body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, file
