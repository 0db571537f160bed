"""A checkpoint is taken up whole by the run that wrote it, or the work starts again, with a line."""

from __future__ import annotations

import pytest
import torch

from simu.store import checkpoint as module
from simu.store.checkpoint import Checkpoint

STATE = {"weights": torch.arange(4096.0), "step": 7}


def written(tmp_path, fingerprint: str = "a") -> Checkpoint:
    made = Checkpoint(tmp_path / "training.pt", fingerprint)
    made.save(STATE)
    return made


def test_what_is_saved_is_loaded(tmp_path):
    found = written(tmp_path).load()
    assert found["step"] == 7
    assert found["weights"].equal(STATE["weights"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["training.json", "training.pt"]


def test_nothing_there_is_nothing_said(tmp_path, caplog):
    assert Checkpoint(tmp_path / "training.pt", "a").load() is None
    assert Checkpoint(None, "a").load() is None
    assert not caplog.text


def test_one_altered_bit_is_found(tmp_path, caplog):
    made = written(tmp_path)
    content = bytearray(made.path.read_bytes())
    content[len(content) // 2] ^= 1
    made.path.write_bytes(content)
    assert made.load() is None
    assert "altered or truncated: starting anew" in caplog.text


@pytest.mark.parametrize("record", ["null", "[]", "{}", '{"layout": 1, "fingerprint": "a", "digests": "abc"}', "{", ""])
@pytest.mark.parametrize("what", ["record", "folder", "record is a folder", "link"])
def test_whatever_else_is_there_starts_anew_and_is_replaced(tmp_path, record, what, caplog):
    made = written(tmp_path)
    beside = made.path.with_suffix(".json")
    match what:
        case "record":
            beside.write_text(record)
        case "folder":
            made.path.unlink()
            (made.path / "x").mkdir(parents=True)
        case "record is a folder":
            beside.unlink()
            (beside / "x").mkdir(parents=True)
        case "link":
            made.path.rename(tmp_path / "elsewhere")
            made.path.symlink_to(tmp_path / "elsewhere")
    assert made.load() is None
    assert "starting anew" in caplog.text
    made.save(STATE)
    assert made.load()["step"] == 7


def test_a_state_saved_by_other_means_is_not_taken_up(tmp_path, caplog):
    made = written(tmp_path)
    torch.save({"weights": STATE["weights"]}, made.path)  # a key is gone
    assert made.load() is None
    assert "altered" in caplog.text


def test_another_run_and_another_layout_start_anew(tmp_path, caplog, monkeypatch):
    written(tmp_path, "a")
    assert Checkpoint(tmp_path / "training.pt", "b").load() is None
    assert "of another run" in caplog.text
    monkeypatch.setattr(module, "LAYOUT", 2)
    assert Checkpoint(tmp_path / "training.pt", "a").load() is None
    assert "of another layout" in caplog.text


def test_a_kill_between_record_and_file_loses_nothing(tmp_path, monkeypatch):
    """The record names the new file and the one before: whichever stands there is known."""
    made = written(tmp_path)
    old = made.path.read_bytes()
    made.save({**STATE, "step": 8})
    assert made.load()["step"] == 8
    made.path.write_bytes(old)  # as if the last rename had not come to pass
    assert made.load()["step"] == 7


def test_kept_computes_once(tmp_path):
    calls = []
    for _ in range(2):
        found = Checkpoint(tmp_path / "x.pt", "a").kept(lambda: (calls.append(1), torch.ones(2))[1])
        assert found.equal(torch.ones(2))
    assert calls == [1]
