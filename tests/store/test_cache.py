"""The stage cache: whole or absent, verified, computed once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from pathlib import Path

import pytest

from simu.cli.cache import main
from simu.store.cache import CHECKPOINT, Cache
from simu.store.files import canonical, digest, write_atomic


def write(text: str):
    def compute(folder: Path) -> None:
        (folder / "result.txt").write_text(text)

    return compute


def test_digest_is_sha256_of_sorted_compact_json():
    expected = hashlib.sha256(b'{"a":[1,2.5],"b":null}').hexdigest()[:20]
    assert digest({"b": None, "a": [1, 2.5]}) == expected
    assert canonical({"é": 1}) == '{"\\u00e9":1}'


def test_second_call_computes_nothing_and_other_inputs_do(tmp_path):
    cache, calls = Cache(tmp_path), []
    for _ in range(2):
        entry = cache.stage("s", {"x": 1}, lambda f: (calls.append(1), (f / "r").write_text("r"))[0])
    assert calls == [1]
    assert entry.cached
    assert not cache.stage("s", {"x": 2}, write("other")).cached


@pytest.mark.parametrize("harm", ["alter", "truncate", "remove", "manifest"])
def test_damage_is_said_and_mended(tmp_path, harm, caplog):
    cache = Cache(tmp_path)
    folder = cache.stage("s", {"x": 1}, write("good")).folder
    victim = folder / "result.txt"
    match harm:
        case "alter":
            victim.write_text("gxxd")
        case "truncate":
            victim.write_text("go")
        case "remove":
            victim.unlink()
        case "manifest":
            (folder / "files.json").write_text("{")
    entry = cache.stage("s", {"x": 1}, write("good"))
    assert not entry.cached
    assert (entry.folder / "result.txt").read_text() == "good"
    assert "damaged" in caplog.text


def test_a_failed_stage_leaves_no_entry_and_keeps_its_checkpoint(tmp_path):
    cache = Cache(tmp_path)

    def dies(folder: Path) -> None:
        (folder / CHECKPOINT).mkdir()
        (folder / CHECKPOINT / "at").write_text("7")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cache.stage("s", {}, dies)
    assert not (tmp_path / "s" / digest({})).exists()
    seen = []

    def goes_on(folder: Path) -> None:
        seen.append((folder / CHECKPOINT / "at").read_text())

    folder = cache.stage("s", {}, goes_on).folder
    assert seen == ["7"]
    assert not (folder / CHECKPOINT).exists()


def _slow_stage(root: str, log: str) -> None:
    def compute(folder: Path) -> None:
        with open(log, "a") as f:
            f.write("computed\n")
        time.sleep(0.5)
        (folder / "r").write_text("r")

    Cache(Path(root)).stage("s", {"x": 1}, compute)


def test_two_processes_compute_once(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_slow_stage, args=(str(tmp_path / "c"), str(log))) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert log.read_text() == "computed\n"


def test_write_atomic_replaces_whole_and_leaves_no_temporary(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")
    write_atomic(target, "new")
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_command_line(tmp_path, capsys):
    cache = Cache(tmp_path)
    folder = cache.stage("attribution", {"m": 5}, write("x")).folder
    assert main(["--dir", str(tmp_path), "ls"]) == 0
    assert "1 stages" in capsys.readouterr().out
    assert main(["--dir", str(tmp_path), "show", folder.name[:6]]) == 0
    assert '"m": 5' in capsys.readouterr().out
    assert main(["--dir", str(tmp_path), "show", "zzz"]) == 2
    assert main(["--dir", str(tmp_path), "verify"]) == 0
    (folder / "result.txt").write_text("y")
    assert main(["--dir", str(tmp_path), "verify"]) == 1
    assert "altered" in capsys.readouterr().out
    assert main(["--dir", str(tmp_path), "prune", "--days", "0", "--stage", "target"]) == 0
    assert folder.exists()
    assert main(["--dir", str(tmp_path), "prune", "--days", "0"]) == 0
    assert not folder.exists()
    assert main(["--dir", str(tmp_path / "none"), "ls"]) == 2
    assert "no cache in" in capsys.readouterr().err


def test_inputs_are_readable(tmp_path):
    folder = Cache(tmp_path).stage("mask", {"t": 0.3}, write("x")).folder
    assert json.loads((folder / "inputs.json").read_text())["inputs"] == {"t": 0.3}
