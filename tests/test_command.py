"""The `simu` console command, and what the installed package says of itself."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import simu
from simu.cli import command


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["simu", *words])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_word_that_is_no_command_names_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "rnu", "seed=1") == 2
    assert capsys.readouterr().err == "simu: no command 'rnu'; allowed: run, report, cache, doctor\n"


def test_without_a_word_it_lists_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch) == 0
    assert {"run", "report", "cache"} <= set(capsys.readouterr().out.split())


def test_status_and_words_of_the_command_are_the_modules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "cache", "--dir", str(tmp_path / "none"), "ls") == 2
    assert f"no cache in {tmp_path / 'none'}" in capsys.readouterr().err


def test_run_composes_what_the_module_composes() -> None:
    """`simu run --cfg job` in a process of its own: Hydra keeps a state in this one."""
    words = ["--cfg", "job", "mask.t=0.7", "method=simu"]
    by_command = f"import sys; sys.argv = ['simu', 'run', *{words!r}]; from simu.cli.command import main; main()"
    texts = [
        subprocess.run([sys.executable, *how], capture_output=True, text=True, check=True).stdout
        for how in (["-c", by_command], ["-m", "simu.run", *words])
    ]
    assert texts[0] == texts[1]
    assert "t: 0.7" in texts[0]


def test_the_package_is_typed_and_has_the_command() -> None:
    assert (Path(simu.__file__).parent / "py.typed").is_file()
    installed = distribution("simu-unlearning")
    assert "Typing :: Typed" in (installed.metadata.get_all("Classifier") or [])
    assert [e.value for e in installed.entry_points if e.name == "simu"] == ["simu.cli.command:main"]
