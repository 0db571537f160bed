"""Every launcher gives the serial sweep's bytes, and lists the job that failed with its reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from commands import SMALL

THREE = [*SMALL, "mask.t=0.5,1.5,0.6"]
"""Three jobs of seconds; the second asks for a threshold that is not allowed."""

PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}


def sweep(launcher: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SIMU_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "simu.run", "-m", *THREE, f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


def installed(launcher: str) -> bool:
    return find_spec(f"hydra_plugins.hydra_{PLUGINS[launcher]}_launcher") is not None


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serial")
    assert sweep("basic", folder).returncode == 1
    return folder / "sweep"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_launcher_equals_serial_and_lists_the_failed_job(launcher, serial, tmp_path):
    if not installed(launcher):
        pytest.skip(f"extra `{EXTRAS[launcher]}` is not installed")
    done = sweep(launcher, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "sweep: 2 of 3 jobs done in sweep" in done.stderr
    assert re.search(r"failed sweep/1: mask\.t=1\.5: allowed is a finite number, 0 ≤ x ≤ 1", done.stderr)
    assert "deprecated" not in done.stderr
    for job in "02":
        assert (tmp_path / "sweep" / job / "metrics.json").read_bytes() == (serial / job / "metrics.json").read_bytes()
    for stage, times in {"target": 1, "attribution": 1, "unlearning": 2}.items():  # shared stages were done once
        assert len(list((tmp_path / "cache" / stage).glob("*/files.json"))) == times


@pytest.mark.parametrize("launcher", PLUGINS)
def test_launcher_without_its_extra_is_one_line(launcher, tmp_path):
    if installed(launcher):
        pytest.skip(f"extra `{EXTRAS[launcher]}` is installed")
    done = sweep(launcher, tmp_path)
    assert done.returncode == 2
    assert f'the extra `{EXTRAS[launcher]}` is not installed; allowed after pip install -e ".[' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("launcher", PLUGINS)
def test_defaults_are_keys_of_the_plugin(launcher):
    """A key that the plugin does not have would be passed on to Slurm, or refused, only on the cluster."""
    if not installed(launcher):
        pytest.skip(f"extra `{EXTRAS[launcher]}` is not installed")
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from simu.config import conf_dir

    Plugins.instance()
    known = ConfigStore.instance().load(f"hydra/launcher/{launcher}.yaml").node
    ours = yaml.safe_load((conf_dir() / "hydra" / "launcher" / f"{launcher}.yaml").read_text())
    assert set(ours) <= set(known)
    assert ours["_target_"] == known["_target_"]
