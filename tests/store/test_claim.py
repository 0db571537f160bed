"""A folder belongs to one process at a time, and is known to be abandoned when that has gone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import SMALL, simu

from simu.report.collect import Skipped, read
from simu.store.claim import abandoned, claim, claim_new, release

DRY = [*SMALL, "dry_run=true"]


def elsewhere(folder: Path) -> str:
    """What another process is told."""
    code = f"from pathlib import Path\nfrom simu.store.claim import claim\nprint(claim(Path({str(folder)!r})))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_one_process_has_it_until_it_gives_it_back(tmp_path):
    folder = tmp_path / "run"
    assert claim(folder)
    assert claim(folder)  # its own already
    assert elsewhere(folder) == "False"
    assert not abandoned(folder)
    release(folder)
    assert elsewhere(folder) == "True"
    assert abandoned(folder)  # that process has ended
    assert not abandoned(tmp_path)  # never claimed: nobody knows


def test_of_a_name_that_is_there_the_next_free_one_is_made(tmp_path):
    made = [claim_new(tmp_path / "day" / "12-00-00") for _ in range(3)]
    assert [path.name for path in made] == ["12-00-00", "12-00-00-2", "12-00-00-3"]
    assert elsewhere(made[1]) == "False"
    for path in made:
        release(path)


def test_two_runs_and_two_sweeps_of_one_second_have_two_folders(tmp_path):
    """Hydra's default names a folder by the second: all are given the same one here, and refused at once."""
    env = {"SIMU_CONF": str(frozen(tmp_path))}
    for seed in "01":
        simu("mask.t=1.5", f"seed={seed}", cwd=tmp_path, check=False, **env)
    assert seeds(tmp_path, "outputs/now", "outputs/now-2") == [0, 1]
    for several in ("2,3", "4"):
        simu("-m", "mask.t=1.5", f"seed={several}", cwd=tmp_path, check=False, **env)
    assert seeds(tmp_path, "multirun/now/0", "multirun/now/1", "multirun/now-2/0") == [2, 3, 4]


def frozen(root: Path) -> Path:
    """The project's config with a clock that stands still."""
    from simu.config import conf_dir

    for path in conf_dir().iterdir():
        (root / "conf").mkdir(exist_ok=True)
        if path.name != "config.yaml":
            (root / "conf" / path.name).symlink_to(path)
    text = (conf_dir() / "config.yaml").read_text()
    (root / "conf/config.yaml").write_text(text.replace("${now:%Y-%m-%d}/${now:%H-%M-%S}", "now"))
    assert "${now" not in (root / "conf/config.yaml").read_text()
    return root / "conf"


def seeds(root: Path, *folders: str) -> list[int]:
    return [yaml.safe_load((root / f / ".hydra/config.yaml").read_text())["seed"] for f in folders]


@pytest.mark.parametrize(("kind", "words"), [("run", []), ("sweep", ["-m"])])
def test_a_folder_in_which_another_run_is_at_work_is_refused_in_one_line(tmp_path, kind, words):
    assert claim(tmp_path / "mine")
    done = simu(*words, *DRY, f"hydra.{kind}.dir=mine", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"simu: hydra.{kind}.dir=mine: another run is at work in this folder; allowed is a folder of its own\n"
    )
    assert [p.name for p in (tmp_path / "mine").iterdir()] == [".claim"]
    release(tmp_path / "mine")


def test_two_jobs_of_a_sweep_in_one_folder_are_told(tmp_path):
    words = ["seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same"]
    done = simu("-m", *DRY, *words, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "sweep: 1 of 2 jobs done in sweep" in done.stderr
    assert "failed sweep/same: hydra.sweep.subdir: job 0 has the folder" in done.stderr
    record = json.loads((tmp_path / "sweep/same/provenance.json").read_text())
    assert (record["status"], record["switches"]["seed"]) == ("dry run", 0)


def test_a_run_in_a_folder_of_a_finished_one_leaves_nothing_of_it(finished):
    shutil.copytree(finished / "first", finished / "again")
    assert (finished / "again/model").is_dir()
    done = simu(*SMALL, "mask.t=0.9", "stages=[mask]", "hydra.run.dir=again", cwd=finished)
    assert "again: the results of another run (python -m simu.run " in done.stdout
    left = {path.name for path in (finished / "again").iterdir() if not path.name.startswith(".")}
    assert left == {"provenance.json", "mask.safetensors", "mask_report.json", "simu.log", "wandb"}


def test_a_killed_run_is_reported_as_stopped(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom simu.store.claim import claim\n"
        "claim(Path('run'))\nPath('run/provenance.json').write_text('{\"schema\": 2, \"status\": \"running\"}')\n"
        "print('there', flush=True)\nsys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    assert read(tmp_path / "run") == Skipped(tmp_path / "run", "half-written: the run was stopped, or is still going")
    process.kill()
    process.communicate()
    assert read(tmp_path / "run") == Skipped(tmp_path / "run", "stopped: its process has gone")
