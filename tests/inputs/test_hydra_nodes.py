"""What Hydra itself is given, on the command line or in yaml: one line and exit status 2."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
from commands import simu

from simu import run as entry
from simu.cli.main import at_home, run_hydra
from simu.config import conf_dir


def child(words: tuple[str, ...], said: Path) -> None:
    """The command line in a process of its own, without the seconds of its imports."""
    with said.open("w") as stream:
        os.dup2(stream.fileno(), 2)
        sys.stderr = stream
        logging.root.handlers.clear()
        sys.argv = ["simu.run", *words, "dry_run=true"]
        run_hydra(entry.job)


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Runs the command line; what it says on stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> str:
        process = multiprocessing.get_context("fork").Process(target=child, args=(words, tmp_path / "stderr"))
        process.start()
        process.join()
        said = (tmp_path / "stderr").read_text()
        assert process.exitcode == 2, said
        assert len(said.splitlines()) == 1, said
        return said

    return command


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m", "hydra.launcher._target_=nope.Nope", "seed=0,1"], "hydra.launcher._target_=nope.Nope: Hydra cannot"),
        (["-m", "hydra.launcher._target_=os.system", "seed=0,1"], "hydra.launcher._target_=os.system: Hydra cannot"),
        (["-m", "hydra.sweeper._target_=nope.Nope", "seed=0,1"], "hydra.sweeper._target_=nope.Nope: Hydra cannot"),
        (["-m", "hydra.launcher=joblib", "seed=0,1"], "chosen with a slash, as hydra/launcher=joblib"),
        (["hydra=5"], "hydra=5: not a setting but a group"),
        (["hydra.verbose=5"], "hydra.verbose=5: Hydra cannot work with it"),
        (["hydra.run.dir=[1]"], "hydra.run.dir=[1]: Cannot convert 'list' to string"),
        (["hydra.job.chdir=maybe"], "hydra.job.chdir=maybe: Value 'maybe' is not a valid bool"),
        (["hydra.mode=NOPE"], "hydra.mode=NOPE: Invalid value 'NOPE', expected one of [RUN, MULTIRUN]"),
        (["hydra.job_logging.version=7"], "hydra.job_logging.version=7: Hydra cannot work with it"),
        (["hydra.job_logging.handlers.console.class=nope.X"], "Unable to configure handler 'console'"),
        (["hydra.callbacks.status._target_=nope.X"], "Error locating target 'nope.X'"),
        (["hydra.searchpath=5"], "hydra.searchpath must be a list of strings"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_settings_of_hydra(refused, words, says):
    assert says in refused(*words)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"_target_: simu.masks.Random\nt: [0.3\n", "line 3, column 1: broken YAML (expected ',' or ']'"),
        (b"_target_: simu.masks.Random\nt: \xff\xfe\n", "broken YAML ("),
        (
            b"_target_: simu.masks.Random\nt: !!python/object/apply:os.system [ls]\n",
            "line 2, column 4: broken YAML (could",
        ),
        (b"_target_: simu.masks.Random\nt: \x01\n", "broken YAML ("),
        (b"t: {a: b: c}\n", "broken YAML ("),
    ],
    ids=["syntax", "encoding", "python tag", "control character", "mapping"],
)
def test_own_yaml_that_is_broken(refused, tmp_path, monkeypatch, content, says):
    conf = shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("SIMU_CONF", str(conf))
    (conf / "mask" / "mine.yaml").write_bytes(content)
    line = refused("mask=mine")
    assert line.startswith(f"simu: {conf}/mask/mine.yaml")
    assert says in line


def test_a_preset_that_is_broken(refused, tmp_path, monkeypatch):
    conf = shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("SIMU_CONF", str(conf))
    for content in (b"mask: [", b"\xff\xfe", b"mask: 5\n", b"5", b""):
        (conf / "preset" / "mine.yaml").write_bytes(content)
        assert f"{conf}/preset/mine.yaml: " in refused()


def test_home_in_hydras_own_paths():
    home = os.path.expanduser("~")
    assert at_home('hydra.run.dir="~/x"') == f'hydra.run.dir="{home}/x"'
    assert at_home("hydra.sweep.dir=~/x") == f'hydra.sweep.dir="{home}/x"'
    assert at_home("hydra.run.dir=a/~b") == "hydra.run.dir=a/~b"
    assert at_home("~mask") == "~mask"


def test_as_a_process(tmp_path: Path):
    done = simu("-m", "hydra.launcher._target_=nope.Nope", "seed=0,1", "dry_run=true", cwd=tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, "")
