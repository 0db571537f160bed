"""Sweeps: what is listed at the end, from the jobs alone, whatever the folders and the launcher."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest
from commands import FSDP, SMALL, simu


def test_a_failed_job_of_a_sweep_is_listed_and_the_others_finish(finished):
    done = simu(*SMALL, "-m", "mask.t=0.5,1.5,0.6", "hydra.sweep.dir=sweep", cwd=finished, check=False)
    assert done.returncode == 1
    assert re.search(r"sweep: 2 of 3 jobs done", done.stderr)
    assert re.search(r"failed sweep/1: mask\.t=1\.5: allowed is", done.stderr)
    assert (finished / "sweep/2/metrics.json").is_file()
    assert len(list((finished / "cache/attribution").glob("*/files.json"))) == 1  # one for every t of this file


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_one_and_a_killed_sweep_goes_on(finished, tmp_path):
    """joblib with two workers on an empty cache equals the serial run; killed, the same command repeats no stage."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `joblib` is not installed")
    sweep = ["mask.t=0.5,0.6,0.7", "hydra.sweep.dir=sweep"]
    workers = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    simu("-m", *SMALL, *sweep, *workers, cwd=tmp_path)
    simu("-m", *SMALL, "mask.t=0.5,0.6,0.7", "hydra.sweep.dir=serial", cwd=finished)
    for job in "012":
        one, two = (
            json.loads((root / job / "metrics.json").read_text()) for root in (finished / "serial", tmp_path / "sweep")
        )
        assert two == pytest.approx(one, abs=1e-6)
    assert len(list((tmp_path / "cache/attribution").glob("*/files.json"))) == 1

    killed = tmp_path / "killed"
    killed.mkdir()
    env = {**os.environ, "SIMU_CACHE_DIR": str(killed / "cache")}
    command = [sys.executable, "-m", "simu.run", "-m", *SMALL, *sweep]
    process = subprocess.Popen(command, cwd=killed, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "sweep/1/provenance.json").exists():
        time.sleep(0.1)
    process.kill()
    process.wait()
    before = {p: p.stat().st_mtime_ns for p in (killed / "cache").glob("*/*/files.json")}
    simu("-m", *SMALL, *sweep, cwd=killed)
    assert before
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in before.items())
    for job in "012":
        again = (killed / "sweep" / job / "metrics.json").read_bytes()
        assert again == (finished / "serial" / job / "metrics.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_leave_one_run_folder_with_the_same_numbers(finished, tmp_path, sharded):
    """The whole pipeline under torchrun and under accelerate's FSDP, two gloo processes on the CPU."""
    replicas = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611"]
    shards = [*FSDP, "29612"]
    command = [sys.executable, *(shards if sharded else replicas), "-m", "simu.run", *SMALL, "hydra.run.dir=two"]
    env = os.environ | {"SIMU_CACHE_DIR": str(tmp_path / "cache"), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    one = json.loads((finished / "first/metrics.json").read_text())
    two = json.loads((tmp_path / "two/metrics.json").read_text())
    assert two == pytest.approx(one, abs=0.02)
    assert done.stdout.count("original → simu") == 1


def test_nested_folders_are_counted_by_their_jobs(tmp_path, tofu_dir):
    words = ["dry_run=true", "data=tofu", f"data.path={tofu_dir},/nowhere"]
    words += ["hydra.sweep.dir=sweep", "hydra.sweep.subdir=a/${hydra.job.num}/b"]
    done = simu("-m", *words, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "sweep: 1 of 2 jobs done in sweep" in done.stderr
    assert re.search(r"failed sweep/a/1/b: data\.path=/nowhere: no such folder", done.stderr)


def test_dry_runs_are_done_and_a_reused_folder_counts_its_new_jobs_alone(tmp_path):
    done = simu("-m", "dry_run=true", "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert "sweep: 2 of 2 jobs done in sweep" in done.stderr
    done = simu("-m", "dry_run=true", "seed=0", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert "sweep: 1 of 1 jobs done in sweep" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("subdir", ["${hydra.job.num}", "a/${hydra.job.num}/b"], ids=["flat", "nested"])
def test_nine_jobs_of_which_two_fail_in_a_new_and_in_a_reused_folder(tmp_path, subdir):
    words = ["dry_run=true", "mask.t=0.1,0.2,1.5,0.3,0.4,0.5,0.6,1.6,0.7", "hydra.sweep.dir=sweep"]
    for _ in range(2):
        done = simu("-m", *words, f"hydra.sweep.subdir={subdir}", cwd=tmp_path, check=False)
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert lines[-3] == "sweep: 7 of 9 jobs done in sweep"
        for job, value, line in ((2, 1.5, lines[-2]), (7, 1.6, lines[-1])):
            folder = subdir.replace("${hydra.job.num}", str(job))
            assert line == f"  failed sweep/{folder}: mask.t={value}: allowed is a finite number, 0 ≤ x ≤ 1"
        assert re.findall(r"job \d of 9", done.stdout) == [f"job {n} of 9" for n in range(1, 10)]
        assert "job 1 of 9\n" in done.stdout
        assert re.search(r"job 9 of 9, about \d+ (s|min) left", done.stdout)


def test_a_sweep_ends_with_its_jobs_side_by_side_and_the_winner(finished):
    done = simu(*SMALL, "-m", "mask.t=0.3,0.9", "seed=0", "hydra.sweep.dir=ends", cwd=finished)
    scores = [json.loads((finished / f"ends/{job}/metrics.json").read_text())["aggregate_fair"] for job in (0, 1)]
    table = done.stdout[done.stdout.index("The sweep: tiny on mini") :]
    rows = [line for line in table.splitlines() if line.lstrip().startswith("#")]
    assert [f"{score:.4f}" in row for score, row in zip(scores, rows, strict=True)] == [True, True]
    best = scores.index(max(scores))
    assert ["winner" in row for row in rows] == [job == best for job in (0, 1)]
    named = f"winner by Fair aggregate among those with forget/rouge_l_recall<=0.3: simu · dual (t={(0.3, 0.9)[best]})"
    assert f"{named}, {scores[best]:.3f}" in table


@pytest.mark.parametrize(
    ("number", "total", "ended", "elapsed", "said"),
    [
        (0, 9, 0, 0, "job 1 of 9"),
        (1, 9, 1, 60, "job 2 of 9, about 8 min left"),  # 8 jobs of a minute
        (2, 9, 1, 60, "job 3 of 9, about 8 min left"),  # one runs beside it: the pace is the sweep's
        (8, 9, 8, 80, "job 9 of 9, about 10 s left"),
        (1, 9, 1, 3600, "job 2 of 9, about 8.0 h left"),
        (3, None, 3, 60, "job 4"),  # another sweeper than Hydra's own does not say how many there will be
    ],
)
def test_progress(number, total, ended, elapsed, said):
    from simu.cli.sweeps import progress

    others = [{"status": "completed"}] * ended + [{"status": "killed"}] * (number - ended)
    assert progress(number, {"jobs": total, "started": 1000.0}, others, 1000.0 + elapsed) == said


def test_a_further_process_of_a_group_leaves_no_run_folder(tmp_path):
    done = simu(*SMALL, "dry_run=true", "hydra.run.dir=two", cwd=tmp_path, RANK="1")
    assert "attribution plan" in done.stdout
    assert not (tmp_path / "two").exists()
