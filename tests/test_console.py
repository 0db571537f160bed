"""Printing never costs a result: encodings, closed pipes, full disks, bars, and the width of a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, simu

from simu.cli.labels import labels
from simu.console import Lines, inert, shortened, show
from simu.progress import track
from simu.report.summary import print_summary
from simu.results import brief

ROW = {
    "aggregate": 0.5,
    "aggregate/ci_low": 0.4,
    "aggregate/ci_high": 0.6,
    "forget/exact_match": 0.0,
    "forget/exact_match/ci_low": 0.0,
    "forget/exact_match/ci_high": 0.161,
    "forget/n": 20,
    "forget/repetition_rate": 0.985,
    "forget/finished": 0.0,
    "mia/min_k": 0.0,
    "mia/n_members": 123456,
    "mia/n_nonmembers": 123456,
    "original/forget/repetition_rate": 0.01,
    "original/forget/exact_match": 1.0,
}


@pytest.mark.parametrize("encoding", ["cp1252", pytest.param("ascii", marks=pytest.mark.slow)])
def test_a_run_a_report_and_the_cache_print_in_any_encoding(finished, tmp_path, encoding):
    """Everything comes from the cache: what is tried is the printing."""

    def python(*words: str) -> subprocess.CompletedProcess[bytes]:
        env = {**os.environ, "PYTHONIOENCODING": encoding, "SIMU_CACHE_DIR": str(finished / "cache")}
        return subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=env, capture_output=True)

    run = python("simu.run", *SMALL, "hydra.run.dir=again")
    assert run.returncode == 0, run.stderr
    assert b"Traceback" not in run.stderr
    assert b"original ? simu" in run.stdout
    assert all(byte < 128 for byte in run.stdout) or encoding != "ascii"
    assert json.loads((tmp_path / "again" / "provenance.json").read_text())["status"] == "completed"
    assert "again" in (tmp_path / "again" / "simu.log").read_text(encoding="utf-8")
    for words in (("simu.report", "again", "--no-figures"), ("simu.report", "best", "again"), ("simu.cache", "ls")):
        done = python(*words, *(["--dir", str(finished / "cache")] if words == ("simu.cache", "ls") else []))
        assert done.returncode == (0 if words[0] != "simu.cache" else done.returncode), done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("where", ["/dev/full", pytest.param("a closed pipe", marks=pytest.mark.slow)])
def test_a_run_that_cannot_print_is_a_finished_run(finished, tmp_path, where):
    env = {**os.environ, "SIMU_CACHE_DIR": str(finished / "cache")}
    command = [sys.executable, "-m", "simu.run", *SMALL, "hydra.run.dir=mute", "save_model=true"]
    if where == "/dev/full":
        with open(where, "w") as full:
            done = subprocess.run(command, cwd=tmp_path, env=env, stdout=full, stderr=subprocess.PIPE)
        stderr = done.stderr
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, cwd=tmp_path, env=env, stdout=writer, stderr=subprocess.PIPE)
        stderr = done.stderr
        os.close(writer)
    assert done.returncode == 0, stderr
    assert b"Traceback" not in stderr
    assert json.loads((tmp_path / "mute" / "provenance.json").read_text())["status"] == "completed"
    assert (tmp_path / "mute" / "model" / "config.json").is_file()
    assert (tmp_path / "mute" / "metrics.json").is_file()


@pytest.mark.slow
def test_the_record_is_complete_before_the_summary_is_printed(finished, tmp_path, monkeypatch):
    """A summary that fails in its own right changes nothing of the run's record."""
    code = (
        "import sys, simu.pipeline as p\n"
        "def broken(*_): raise ValueError('I/O operation on closed file')\n"
        "p.print_summary = broken\n"
        "sys.argv = ['simu.run', *sys.argv[1:]]\n"
        "from simu.run import main; main()"
    )
    env = {**os.environ, "SIMU_CACHE_DIR": str(finished / "cache")}
    command = [sys.executable, "-c", code, *SMALL, "hydra.run.dir=mute"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "mute" / "provenance.json").read_text())["status"] == "completed"


def test_what_cannot_be_printed_silences_the_process_and_no_more(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    show(lambda: print("lost"))
    print("no error either")
    monkeypatch.setattr(sys, "stdout", None)  # started with >&-
    show(lambda: print("lost"))


@pytest.mark.parametrize("method", ["simu", "m" * 300, "a\x1b[31m\nb", "名" * 60])
def test_the_summary_fits_eighty_columns_and_tells_a_collapse(capsys, method):
    many = {f"{key}": value for key, value in ROW.items()} | {f"forget/{'k' * 200}": 0.5}
    for name in ("qa", "lume", "mine"):
        print_summary(many, method, name, ["step 16: " + "the model is being destroyed " * 9, "b\x1b[2Ja\nd"])
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        assert "\x1b" not in out
        words = " ".join(out.split())
        assert "forget Repetition ↓ 0.010 0.985 20" in words
        assert "forget Finished ↑ – 0.000 20" in words
        assert "warning: step 16: the model is being destroyed" in words
        assert "Wilson where all rows score 0 or all 1" in words
    assert "→0.5" in out  # not ↓: an AUC of 0 is no perfect one
    assert "[0.000, 0.161]" in out


def test_counts_by_layer_fit_a_line():
    for counts in ([102, 121, 99, 118], [11008] * 32, [1] * 16, [7]):
        assert len(f"{'':<24} by layer {brief(counts)}") <= 80
    assert brief([102, 121, 99, 118]) == "[102, 121, 99, 118]"
    assert brief([1, 22222, 3, *[5] * 60, 6, 7]) == "[1, 22222] … [6, 7], 1–22222"


def test_a_line_stands_on_its_own_beside_a_bar():
    from tqdm import tqdm

    terminal = io.StringIO()
    log = logging.getLogger("tests.beside_a_bar")
    log.propagate = False
    log.addHandler(Lines(terminal))
    with tqdm(total=4, file=terminal, desc="unlearning", mininterval=0, ascii=True) as bar:
        bar.update(1)
        log.warning("step 2: a warning")
        bar.update(1)
    lines = [piece.strip() for piece in terminal.getvalue().replace("\r", "\n").split("\n")]
    assert "step 2: a warning" in lines
    assert any(line.startswith("unlearning:  50%") for line in lines)


def test_inert_texts():
    assert inert("plain – ↑ 名 é") == "plain – ↑ 名 é"
    assert inert("\x1b[1m\x00\x9b\ud800\u202e") == "\\x1b[1m\\x00\\x9b\\ud800\\u202e"
    assert inert("two\nlines\r\n") == "two lines\\r "
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"


CONFIG = {
    "model": {"name": "tiny"},
    "data": {"name": "mini"},
    "method": {"name": "simu"},
    "seed": 0,
    "stages": ["target", "evaluation"],
}
OPTIONS = {
    "model": "tiny",
    "method": "simu",
    "mask": "dual",
    "objective": "npo",
    "objective/retain": "kl",
    "optimizer": "adamw",
    "selection": "selected",
    "attribution": "integrated",
    "tracker": "wandb",
}


def name_of(*overrides: str, job: int | None = None, **options: str) -> dict[str, str]:
    from omegaconf import OmegaConf

    return labels(OmegaConf.create(CONFIG), OPTIONS | options, overrides, job)


def test_a_watched_run_is_called_by_what_it_is():
    found = name_of("objective=npo", "mask.t=0.3", "seed=0", "device=cpu")
    assert found["job_type"] == found["kind"] == "simu dual npo×kl adamw selected integrated"
    assert found["name"] == "tiny-mini simu dual npo×kl adamw selected integrated mask.t=0.3 seed=0"
    assert found["group"] == "tiny-mini"
    assert name_of(sweep="figure3_t")["group"] == "figure3_t"
    assert name_of(selection="all", mask="all")["kind"] == "simu all weights npo×kl adamw all"


def test_no_two_jobs_of_a_sweep_share_a_name():
    long = "objective.forget.beta=" + "1" * 300
    names = [name_of(long, f"mask.t={t}", job=i)["name"] for i, t in enumerate((0.1, 0.2, 0.3))]
    assert len(set(names)) == 3
    assert all(len(name) <= 128 for name in names)
    assert names[2].endswith("seed=0 #2")
    hostile = name_of(mask="<script>\x1b[1m\n" + "x" * 300, sweep="y" * 300)
    assert all(len(hostile[key]) <= most for key, most in (("name", 128), ("job_type", 64), ("group", 128)))
    assert not {"\x1b", "\n"} & set(hostile["name"] + hostile["job_type"] + hostile["group"] + hostile["kind"])


@pytest.mark.slow
def test_a_sweeps_jobs_are_told_apart_where_they_are_watched(finished, tmp_path: Path):
    """The names as W&B's own reader gives them back."""
    from test_tracking import inspect

    words = ["-m", "mask.t=0.3,0.5", "objective=graddiff,npo", "hydra.sweep.dir=sweep"]
    simu(*words, *SMALL, cwd=tmp_path, SIMU_CACHE_DIR=str(finished / "cache"))
    about = []
    for file in tmp_path.glob("sweep/*/wandb/offline-run-*/*.wandb"):
        records = [json.loads(line) for line in inspect(file).splitlines()]
        about.append(next(r["run"] for r in records if r["type"] == "run"))
    assert len({run["display_name"] for run in about}) == len(about) == 4
    assert {run["job_type"] for run in about} == {
        f"simu dual {objective}×ce sophia selected integrated" for objective in ("graddiff", "npo")
    }


def test_in_a_log_file_a_bar_is_whole_lines_and_others_stay_whole(capsys, monkeypatch):
    monkeypatch.setattr("simu.progress.EVERY_SECONDS", 0.0)
    log = logging.getLogger("test.bar")
    log.addHandler(Lines(sys.stderr))
    for i in track(range(3), "teaching", unit="step"):
        log.warning("epoch %d", i)
    said = [re.sub(r" \[.*", "", line) for line in capsys.readouterr().err.splitlines()]
    assert said == ["teaching: 0/3", "epoch 0", "teaching: 1/3", "epoch 1", "teaching: 2/3", "epoch 2", "teaching: 3/3"]
