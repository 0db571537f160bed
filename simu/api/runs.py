"""Runs from Python: start one, read many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from simu.types import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    folder: Path
    metrics: Mapping[str, float] = field(repr=False)
    """metrics.json; empty where nothing was evaluated."""
    config: Mapping[str, Any] = field(repr=False)
    """The composed config, as plain values."""


def run(*overrides: str) -> Run:
    """`python -m simu.run OVERRIDES`, from Python; what it prints is printed.

    In a process of its own, so that it gives the bytes that the command gives (`precision.portable` is settled before
    torch loads) and leaves no Hydra behind. Raises UserError with the command's line where that ends with status 2,
    RuntimeError where it ends with another, and KeyboardInterrupt where it is stopped.

    >>> simu.run("data=tofu", "data.path=rows", "dry_run=true").folder  # doctest: +SKIP
    """
    if any(word in ("-m", "--multirun") for word in overrides):
        raise UserError(
            f"simu.run({', '.join(map(repr, overrides))}): allowed is one run; a sweep is for the command line"
        )
    folder, told = own_folder(overrides)
    status, said = forwarded([sys.executable, "-m", "simu.run", *overrides, *told])
    if status == 2:
        raise UserError(said.strip().splitlines()[-1].removeprefix("simu: "))
    if status in (130, 143):
        raise KeyboardInterrupt
    if status:
        raise RuntimeError(f"python -m simu.run ended with status {status}")
    record = json.loads((folder / "provenance.json").read_text())
    scored = folder / "metrics.json"
    metrics = json.loads(scored.read_text()) if scored.is_file() else {}
    return Run(folder=folder, metrics=metrics, config=record["switches"])


def own_folder(overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """The run's folder, and the word that says so: Hydra's own layout where `hydra.run.dir` does not say."""
    for word in overrides:
        if word.startswith("hydra.run.dir="):
            return Path(word.partition("=")[2].strip("'\"")).expanduser(), []
    stem = Path(f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    folder, more = stem, 1
    while folder.exists():
        folder, more = stem.with_name(f"{stem.name}-{more}"), more + 1
    return folder, [f"hydra.run.dir={folder}"]


def forwarded(command: Sequence[str]) -> tuple[int, str]:
    """Run a command; what it prints goes on to this process's own streams (a notebook's cell) as it comes. Returns its
    exit status and what stood on stderr."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        said: list[str] = []

        def pass_on(source: IO[str], to: IO[str], kept: list[str]) -> None:
            for line in source:
                kept.append(line)
                to.write(line)

        assert child.stdout is not None
        assert child.stderr is not None
        errors = threading.Thread(target=pass_on, args=(child.stderr, sys.stderr, said))
        errors.start()
        pass_on(child.stdout, sys.stdout, [])
        errors.join()
    return child.returncode, "".join(said)


def load_runs(*folders: str | os.PathLike[str]) -> pd.DataFrame:
    """Every finished run under some folders, one a row: folder, method, model, data, seed, each setting that can change
    a result ('mask.t' …) and each metric ('forget/rouge_l_recall' …). What cannot be used is left out, as by reports.

    Raises UserError where no finished run is there.

    >>> simu.load_runs("outputs", "multirun").groupby("method")["aggregate"].mean()  # doctest: +SKIP
    """
    import pandas as pd

    from simu.report.collect import collect

    runs, _ = collect([Path(folder) for folder in folders])
    return pd.DataFrame(
        [
            {
                "folder": str(r.path),
                "method": r.method,
                "model": r.model,
                "data": r.data,
                "seed": r.seed,
                **{slot: option for slot, option in r.options.items() if slot not in ("method", "model", "data")},
                **r.settings,
                **r.metrics,
            }
            for r in runs
        ]
    )
