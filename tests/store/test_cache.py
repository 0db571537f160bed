"""The stage cache: whole or absent, verified, computed once."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simu.cli.cache import main
from simu.store import cache as cache_module
from simu.store.cache import CHECKPOINT, Cache
from simu.store.files import canonical, digest, write_atomic
from simu.store.identity import Address


def at(stage: str, inputs: dict) -> Address:
    return Address(stage, {"inputs": inputs})


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
        entry = cache.stage(at("s", {"x": 1}), lambda f: (calls.append(1), (f / "r").write_text("r"))[0])
    assert calls == [1]
    assert entry.cached
    assert not cache.stage(at("s", {"x": 2}), write("other")).cached


@pytest.mark.parametrize(
    "harm", ["alter", "truncate", "remove", "manifest", "null", "list", "empty", "more", "more below", "link", "folder"]
)
def test_damage_is_said_and_mended(tmp_path, harm, caplog):
    cache = Cache(tmp_path)
    folder = cache.stage(at("s", {"x": 1}), write("good")).folder
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
        case "null" | "list" | "empty":
            (folder / "files.json").write_text({"null": "null", "list": "[]", "empty": "{}"}[harm])
        case "more":
            (folder / "special_tokens_map.json").write_text("{}")
        case "more below":
            (folder / "model").mkdir()
            (folder / "model" / "x").write_text("x")
        case "link":
            (folder / "other").write_text("good")
            victim.unlink()
            victim.symlink_to(folder / "other")
        case "folder":
            victim.unlink()
            victim.mkdir()
    entry = cache.stage(at("s", {"x": 1}), write("good"))
    assert not entry.cached
    assert (entry.folder / "result.txt").read_text() == "good"
    assert "damaged" in caplog.text
    assert entry.folder.with_name(f"{entry.digest}.damaged").is_dir()
    assert sorted(p.name for p in entry.folder.iterdir()) == ["files.json", "inputs.json", "result.txt"]


def test_a_failed_stage_leaves_no_entry_and_keeps_its_checkpoint(tmp_path):
    cache = Cache(tmp_path)

    def dies(folder: Path) -> None:
        (folder / CHECKPOINT).mkdir()
        (folder / CHECKPOINT / "at").write_text("7")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cache.stage(at("s", {}), dies)
    assert not (tmp_path / "s" / at("s", {}).digest).exists()
    seen = []

    def goes_on(folder: Path) -> None:
        seen.append((folder / CHECKPOINT / "at").read_text())

    folder = cache.stage(at("s", {}), goes_on).folder
    assert seen == ["7"]
    assert not (folder / CHECKPOINT).exists()


def _slow_stage(root: str, log: str) -> None:
    def compute(folder: Path) -> None:
        with open(log, "a") as f:
            f.write("computed\n")
        time.sleep(0.5)
        (folder / "r").write_text("r")

    Cache(Path(root)).stage(at("s", {"x": 1}), compute)


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


def let_go(folder: Path) -> None:
    """As the end of the process does."""
    cache_module._HELD.pop(folder.with_name(f"{folder.name}.use")).close()


def test_prune_leaves_what_another_process_computes(tmp_path, capsys):
    def looks(folder: Path) -> None:
        (folder / "r").write_text("r")
        code = f"from simu.cli.cache import main; main(['--dir', {str(tmp_path)!r}, 'prune', '--days', '0'])"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (folder / "r").is_file()

    Cache(tmp_path).stage(at("s", {}), looks)


def test_a_partial_folder_starts_clean_but_for_its_checkpoint(tmp_path):
    address = at("s", {"x": 1})
    left = tmp_path / "s" / f"{address.digest}.partial"
    (left / CHECKPOINT).mkdir(parents=True)
    (left / CHECKPOINT / "at").write_text("7")
    (left / "half.txt").write_text("ha")
    (left / "folder").mkdir()
    seen = []
    Cache(tmp_path).stage(address, lambda folder: seen.extend(sorted(p.name for p in folder.iterdir())))
    assert seen == [CHECKPOINT, "inputs.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_complete_cache_without_write_permission_is_used(tmp_path):
    address = at("s", {"x": 1})
    Cache(tmp_path).stage(address, write("r"))
    (tmp_path / "s").chmod(0o555)
    try:
        assert Cache(tmp_path).stage(address, write("r")).cached
    finally:
        (tmp_path / "s").chmod(0o755)


def test_a_hit_of_another_version_says_so(tmp_path, caplog, monkeypatch):
    Cache(tmp_path).stage(at("s", {}), write("r"))
    caplog.set_level("INFO")
    Cache(tmp_path).stage(at("s", {}), write("r"))
    assert "was computed with" not in caplog.text
    monkeypatch.setattr(cache_module, "versions", lambda: {"torch": "0.0"})
    Cache(tmp_path).stage(at("s", {}), write("r"))
    assert re.search(r"was computed with .*torch \d", caplog.text)


def test_files_honour_the_umask(tmp_path):
    before = os.umask(0o027)
    code = (
        "import sys, torch, pathlib\nfrom simu.store.files import write_tensors\n"
        "write_tensors(pathlib.Path(sys.argv[1]), {'x': torch.ones(2)})"
    )
    try:
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.safetensors")], check=True)
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640


def test_command_line(tmp_path, capsys):
    cache = Cache(tmp_path)
    folder = cache.stage(at("attribution", {"m": 5}), write("x")).folder
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
    capsys.readouterr()
    assert main(["--dir", str(tmp_path), "prune", "--days", "0"]) == 0
    assert folder.exists()  # this process works with it
    assert "a run works with it" in capsys.readouterr().out
    let_go(folder)
    assert main(["--dir", str(tmp_path), "prune", "--days", "0"]) == 0
    assert not folder.exists()
    assert main(["--dir", str(tmp_path / "none"), "ls"]) == 2
    assert "no cache in" in capsys.readouterr().err


def test_inputs_are_readable(tmp_path):
    folder = Cache(tmp_path).stage(at("mask", {"t": 0.3}), write("x")).folder
    assert json.loads((folder / "inputs.json").read_text())["inputs"] == {"t": 0.3}
