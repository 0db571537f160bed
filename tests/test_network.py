"""Nothing leaves: a whole run with the default tracker and a report, under a hook on sockets, and their files."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL

HOOK = """
import os, sys
LOCAL = ("127.0.0.1", "::1", "localhost", "")
def hook(event, args):
    asked = None
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        asked = str(args[0])
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        asked = str(args[1][0])
    if asked is not None and asked not in LOCAL:
        with open(os.environ["ASKED"], "a") as log:
            log.write(f"{event} {args}\\n")
sys.addaudithook(hook)
"""
"""sitecustomize.py: also in the processes that a run starts."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("net")
    (root / "hook").mkdir()
    (root / "hook/sitecustomize.py").write_text(HOOK)
    left = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HF_"))}
    path = os.pathsep.join([str(root / "hook"), str(Path(__file__).parents[1])])
    env = left | {"ASKED": str(root / "asked"), "PYTHONPATH": path, "SIMU_CACHE_DIR": str(root / "cache")}
    env |= {"USER": "zz-the-user", "LOGNAME": "zz-the-user"}
    run = [sys.executable, "-m", "simu.run", *SMALL, "hydra.run.dir=run"]
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(root / "trace")]
    if can_trace():  # W&B's core is no Python
        run = [*trace, *run]
    for command in (run, [sys.executable, "-m", "simu.report", "run", "--out", "report"]):
        subprocess.run(command, cwd=root, env=env, check=True, capture_output=True, timeout=600)
    return root


def can_trace() -> bool:
    return bool(shutil.which("strace")) and subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode == 0


def test_no_name_is_looked_up_and_nothing_is_connected_to(watched):
    assert (watched / "run/metrics.json").is_file()
    assert list(watched.glob("run/wandb/offline-run-*/*.wandb"))
    assert (watched / "report/index.html").is_file()
    assert not (watched / "asked").exists(), (watched / "asked").read_text()


def test_neither_does_wandbs_core(watched):
    if not (watched / "trace").exists():
        pytest.skip("strace is not to be had here")
    lines = (watched / "trace").read_text().splitlines()
    assert [line for line in lines if re.search("AF_INET6?,", line)] == []


def test_the_hook_sees_a_look_up(watched, tmp_path):
    env = {**os.environ, "ASKED": str(tmp_path / "asked"), "PYTHONPATH": str(watched / "hook")}
    code = "import socket\ntry: socket.getaddrinfo('name.invalid', 80)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert "name.invalid" in (tmp_path / "asked").read_text()


def test_machine_and_user_stand_in_no_file(watched):
    """The .wandb file is protobuf: its strings are bytes of it."""
    host = socket.gethostname().encode()
    for path in (p for p in (watched / "run").rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert b"zz-the-user" not in content, path
        assert not re.search(rb"(?<![\w-])" + re.escape(host) + rb"(?![\w-])", content), path
    home = str(Path.home()).encode()
    (written,) = watched.glob("run/wandb/offline-run-*/*.wandb")
    assert home not in written.read_bytes()
