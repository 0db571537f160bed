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
from simu.store.cache import CHECKPOINT, Cache, let_go
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


MANIFESTS = {
    "half a manifest": b'{"inputs.json": ',
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "empty": b"{}",
    "nothing": b"",
    "no UTF-8": b"\xff\xfe{}",
    "too deep": b"[" * 100_000,
    "numbers for digests": b'{"inputs.json": 1, "result.txt": 2}',
    "a name that is too long": json.dumps({"inputs.json": "0", "n" * 5000: "0"}).encode(),
    "a name outside": b'{"inputs.json": "0", "../../x": "0"}',
}


@pytest.mark.parametrize("name", ["files.json", "inputs.json"])
@pytest.mark.parametrize("content", [*MANIFESTS, "missing", "folder", "link", "fifo"])
def test_a_manifest_that_is_none_is_damage(tmp_path, name, content, caplog):
    cache, address = Cache(tmp_path), at("s", {"x": 1})
    folder = cache.stage(address, write("good")).folder
    path = folder / name
    kept = path.read_bytes()
    path.unlink()
    match content:
        case "folder":
            path.mkdir()
        case "link":
            (tmp_path / "kept").write_bytes(kept)
            path.symlink_to(tmp_path / "kept")
        case "fifo":
            os.mkfifo(path)
        case "missing":
            pass
        case _:
            path.write_bytes(MANIFESTS[content])
    assert main(["--dir", str(tmp_path), "ls"]) == 0
    assert main(["--dir", str(tmp_path), "show", address.digest]) == 0
    assert main(["--dir", str(tmp_path), "verify"]) == 1
    entry = cache.stage(address, write("good"))
    assert not entry.cached
    assert "is damaged" in caplog.text
    assert cache.stage(address, write("good")).cached


@pytest.mark.parametrize("what", ["file", "link to itself moved", "dangling link", "empty folder"])
def test_what_stands_in_an_entrys_place_is_damage(tmp_path, what, caplog):
    cache, address = Cache(tmp_path), at("s", {"x": 1})
    folder = cache.stage(address, write("good")).folder
    aside = folder.rename(tmp_path / "moved")
    match what:
        case "file":
            folder.write_text("x")
        case "empty folder":
            folder.mkdir()
        case _:
            folder.symlink_to(aside if what.startswith("link") else tmp_path / "nowhere")
    assert main(["--dir", str(tmp_path), "ls"]) == 0
    assert main(["--dir", str(tmp_path), "verify"]) == 1
    assert not cache.stage(address, write("good")).cached
    assert "is damaged" in caplog.text
    assert cache.stage(address, write("good")).cached
    assert (aside / "result.txt").read_text() == "good"  # what a link names is left alone


@pytest.mark.parametrize("place", [".partial", ".damaged", ".lock", ".use", ".partial/checkpoint"])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_stands_beside_an_entry_is_in_nobodys_way(tmp_path, place, what):
    address = at("s", {"x": 1})
    folder = Cache(tmp_path).stage(address, write("good")).folder
    let_go()
    (folder / "result.txt").write_text("bad!")
    path = Path(f"{folder}{place}")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    match what:
        case "file":
            path.write_text("x")
        case "folder":
            (path / "deep").mkdir(parents=True)
        case "link":
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "elsewhere" / "kept").write_text("k")
            path.symlink_to(tmp_path / "elsewhere" / ("kept" if place in (".lock", ".use") else ""))
    entry = Cache(tmp_path).stage(address, write("good"))
    assert not entry.cached
    assert sorted(p.name for p in entry.folder.iterdir()) == ["files.json", "inputs.json", "result.txt"]
    if what == "link":
        assert (tmp_path / "elsewhere" / "kept").read_text() == "k"


@pytest.mark.parametrize("harm", ["alter", "truncate", "remove", "more", "more below", "link", "folder"])
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


def test_a_complete_cache_without_write_permission_is_used(tmp_path):
    """By another user, who may read it alone."""
    address = at("s", {"x": 1})
    Cache(tmp_path).stage(address, write("r"))
    let_go()
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in tmp_path.parents[:3]:  # of one test process of several, too
        path.chmod(path.stat().st_mode | 0o055)
    code = (
        "from pathlib import Path\nfrom simu.store.cache import Cache\nfrom simu.store.identity import Address\n"
        "import os\nimport simu.store.cache as module\nmodule.versions = dict  # the libraries' folders may be root's\n"
        f"root = Path({str(tmp_path)!r})\nos.geteuid() or os.setuid(65534)\nassert not os.access(root, 2)\n"
        "print(Cache(root).stage(Address('s', {'inputs': {'x': 1}}), None).cached)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    finally:
        for path in (tmp_path, *tmp_path.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.stdout == "True\n", done.stderr


def test_what_is_in_use_by_the_date_of_long_ago_is_left_alone(tmp_path, capsys):
    folder = Cache(tmp_path).stage(at("s", {}), write("r")).folder
    os.utime(folder, (0, 0))
    assert main(["--dir", str(tmp_path), "prune"]) == 0
    assert folder.is_dir()
    let_go()
    assert main(["--dir", str(tmp_path), "prune"]) == 0
    assert not folder.exists()


def stops(folder: Path) -> None:
    (folder / CHECKPOINT).mkdir()
    raise KeyboardInterrupt


def test_work_stopped_under_other_code_is_left_and_said(tmp_path, caplog):
    """And only that: other settings are other work."""
    caplog.set_level("INFO")

    def under(code: str, lr: float, target: str) -> Address:
        inputs = {"lr": lr, "target": {"stage": "target", "digest": target}}
        return Address("unlearning", {"inputs": inputs, "code": code})

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).stage(under("old", 0.1, "a"), stops)
    let_go()
    Cache(tmp_path).stage(under("new", 0.2, "a"), write("r"))
    assert "the code has changed" not in caplog.text
    left = under("old", 0.1, "a").digest
    Cache(tmp_path).stage(under("new", 0.1, "b"), write("r"))  # its target follows the code
    assert f"unlearning: the code has changed since {left}.partial was stopped: from the start" in caplog.text


def test_a_hit_of_another_version_says_so(tmp_path, caplog, monkeypatch):
    Cache(tmp_path).stage(at("s", {}), write("r"))
    caplog.set_level("INFO")
    Cache(tmp_path).stage(at("s", {}), write("r"))
    assert "was computed with" not in caplog.text
    monkeypatch.setattr(cache_module, "versions", lambda: {"torch": "0.0"})
    Cache(tmp_path).stage(at("s", {}), write("r"))
    assert re.search(r"was computed with .*torch \d", caplog.text)


def test_files_honour_the_umask(tmp_path):
    """Locks too, and what libraries write into folders (safetensors: for the owner alone)."""
    code = (
        "import sys, torch, pathlib\nfrom safetensors.torch import save_file\nfrom simu.store.cache import Cache\n"
        "from simu.store.files import replacing, write_tensors\nfrom simu.store.identity import Address\n"
        "def compute(folder):\n"
        "    write_tensors(folder / 'x.safetensors', {'x': torch.ones(2)})\n"
        "    with replacing(folder / 'model') as made:\n"
        "        made.mkdir()\n"
        "        save_file({'x': torch.ones(2)}, made / 'model.safetensors')\n"
        "Cache(pathlib.Path(sys.argv[1])).stage(Address('s', {}), compute)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, umask=0o027)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    assert {"x.safetensors", "model.safetensors", "files.json", "inputs.json"} < set(modes)
    assert len(modes) == 6  # and .lock and .use
    assert set(modes.values()) == {0o640}


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
    let_go()
    assert main(["--dir", str(tmp_path), "prune", "--days", "0"]) == 0
    assert not folder.exists()
    assert main(["--dir", str(tmp_path / "none"), "ls"]) == 2
    assert "no cache in" in capsys.readouterr().err


def test_inputs_are_readable(tmp_path):
    folder = Cache(tmp_path).stage(at("mask", {"t": 0.3}), write("x")).folder
    assert json.loads((folder / "inputs.json").read_text())["inputs"] == {"t": 0.3}
