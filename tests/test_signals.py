"""SIGINT and SIGTERM: one line, the exit status that shells expect, a record that says so, and the same bytes after."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SMALL, simu

LINE = r"simu: stopped{}; the same command goes on from the last checkpoint\n"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def started(*words: str, cwd: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "SIMU_CACHE_DIR": str(cwd / "cache"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "simu.run", *words]
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )


def heard() -> None:
    """A shell that runs the tests in the background has them ignore SIGINT, and so their children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until(found: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not found() and process.poll() is None:
        time.sleep(0.02)


def stopped(process: subprocess.Popen[str], number: signal.Signals, so_far: str = "") -> None:
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert re.fullmatch(LINE.format(so_far), err), err
    assert process.returncode == STATUS[number]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("seconds", [0.4, 1.2])
def test_while_it_imports_and_composes(tmp_path, number, seconds):
    process = started(*SMALL, "hydra.run.dir=run", cwd=tmp_path)
    time.sleep(seconds)
    stopped(process, number)


STAGES = {
    "teaching": "target/*.partial/inputs.json",
    "evaluation": "evaluation/*.partial/inputs.json",
    "attribution": "attribution/*.partial/inputs.json",
    "unlearning": "unlearning/*.partial/inputs.json",
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_in_a_stage_and_gone_on_with_to_the_same_bytes(finished, tmp_path, number, stage):
    process = started(*SMALL, "hydra.run.dir=run", cwd=tmp_path)
    until(lambda: list((tmp_path / "cache").glob(STAGES[stage])), process)
    stopped(process, number)
    record = json.loads((tmp_path / "run/provenance.json").read_text())
    assert (record["status"], record["reason"]) == ("stopped", number.name)
    simu(*SMALL, "hydra.run.dir=run", cwd=tmp_path)
    assert (tmp_path / "run/metrics.json").read_bytes() == (finished / "first/metrics.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_says_how_many_jobs_were_done_and_leaves_no_worker(finished, tmp_path, launcher):
    words = ["-m", *SMALL, "mask.t=0.5,0.6,0.7", "hydra.sweep.dir=sweep", f"hydra/launcher={launcher}"]
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra `joblib` is not installed")
        words.append("hydra.launcher.n_jobs=2")
    process = started(*words, cwd=tmp_path)
    until(lambda: list((tmp_path / "cache").glob("evaluation/*.partial")), process)
    workers = children(process.pid)
    stopped(process, signal.SIGTERM, r" after 0 of 3 jobs")
    assert launcher == "basic" or workers
    assert not [pid for pid in workers if alive(pid)]
    states = {json.loads(path.read_text())["status"] for path in tmp_path.glob("sweep/*/provenance.json")}
    assert states == {"stopped"}


def children(pid: int) -> list[int]:
    """Loky's workers of a process."""
    found = subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "popen_loky" in line]


def alive(pid: int) -> bool:
    """Not so a process that has ended and that nobody has asked about yet (a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SOFTLY = """
import os, signal, sys, time
from simu import stop
stop.listen(speaks=True)
{}
"""


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SOFTLY.format(code)], capture_output=True, text=True, timeout=60, preexec_fn=heard
    )


def test_before_and_after_a_run_the_process_ends_at_once():
    done = run_code("os.kill(os.getpid(), signal.SIGTERM); print('lives')")
    assert (done.returncode, done.stdout) == (143, "")
    assert re.fullmatch(LINE.format(""), done.stderr)


def test_what_may_not_be_cut_in_two_ends_first_and_sigterm_again_changes_nothing():
    done = run_code(
        "stop.begin()\n"
        "try:\n"
        "    with stop.held():\n"
        "        os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM); print('whole')\n"
        "    print('too far')\n"
        "except KeyboardInterrupt as error:\n"
        "    print(stop.status_of(error), stop.reason(error))\n"
    )
    assert done.stdout == "whole\n143 SIGTERM\n", done


def test_a_second_ctrl_c_does_not_wait():
    done = run_code("stop.begin()\nwith stop.held():\n    [os.kill(os.getpid(), signal.SIGINT) for _ in 'ab']")
    assert done.returncode == 130
    assert re.fullmatch(LINE.format(""), done.stderr)


def test_a_signal_whose_exception_is_lost_is_heard_at_the_next_item():
    """As in __del__ or a C callback, where Python prints the exception and goes on."""
    done = run_code(
        "from simu.progress import track\n"
        "class Lost:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
        "stop.begin()\n"
        "try:\n"
        "    for i in track(range(3), 'x'): Lost(); print(i)\n"
        "except KeyboardInterrupt: print('heard')\n"
    )
    assert done.stdout == "0\nheard\n", done


def test_others_handlers_stay():
    code = (
        "import signal\nfrom simu import stop\nsignal.signal(signal.SIGTERM, print)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nstop.listen(speaks=True)\n"
        "print(signal.getsignal(signal.SIGTERM) is print, signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True True\n"
