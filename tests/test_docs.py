"""Every command that README and docs show is one that composes, and the site builds without a warning."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from simu.cli.main import composed
from simu.config import check_run

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("README.md")))
OF_PAGES = {"mask=outliers", "data=notes", "+sweep=NAME"}
"""Of options that a page teaches to write, and a placeholder."""


def commands() -> list[str]:
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ *(?:python -m simu\.run|simu run)\b(.*)$", text, re.MULTILINE):
            words = line.split(" #")[0].split("`")[0].strip()
            if not OF_PAGES & set(words.split()):
                found.add(words)
    return sorted(found)


def first_job(line: str) -> list[str]:
    """The overrides of a command; of a sweep, those of its first job."""
    words = [word for word in shlex.split(line) if word not in ("-m", "--multirun", "--cfg", "job", "--help")]
    parsed = OverridesParser.create().parse_overrides([w for w in words if not w.lstrip("+").startswith("hydra")])
    return [
        f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else str(o.input_line)
        for o in parsed
    ]


def test_there_are_commands() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_pages_is_one_that_runs(line: str) -> None:
    check_run(composed(first_job(line)))


def test_a_command_that_would_not_is_seen() -> None:
    with pytest.raises(Exception, match="nonesuch"):
        check_run(composed(first_job("-m mask=dual,none optimizer=nonesuch")))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings")):
        pytest.skip("the extra `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("simu.api.memory.unlearn", "simu.optim.sophia.Sophia"))
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//(?!github)[^\"]*\.(?:css|js|woff2?)", page), (
        "nothing is fetched"
    )
