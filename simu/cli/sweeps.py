"""The jobs of a sweep: each in a folder of its own, counted by what each itself noted, whatever the launcher."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from simu import stop
from simu.cli.workers import tell_workers
from simu.store.claim import claim, claim_new
from simu.store.files import read_json, remove, write_json
from simu.types import UserError

log = logging.getLogger("simu")

FOLDER = ".jobs"
"""In the sweep's folder: a file a job, written by the process that runs it, and one of the sweep."""
SWEEP = "sweep.json"
DONE = ("completed", "dry run")
LOST = "killed"
"""What a job is that noted its start and no end."""


@dataclass(frozen=True)
class Job:
    """Where a job works, and the sweep that it belongs to."""

    folder: Path
    sweep: Path | None
    """The sweep's folder; None: a run by itself."""
    number: int

    def start(self) -> None:
        """Take the folder, and say which job this is. Raises UserError where another job or run has the folder."""
        if self.sweep is None:
            return
        self.note(LOST)
        others = [n for n in notes(self.sweep) if n["job"] != self.number]
        if twin := [n["job"] for n in others if n.get("folder") == str(self.folder)]:
            raise UserError(
                f"hydra.sweep.subdir: job {twin[0]} has the folder {self.folder} too; allowed is one a job, "
                "as with ${hydra.job.num} in it"
            )
        if not claim(self.folder):
            raise taken("hydra.sweep.subdir", self.folder)
        log.info("%s", progress(self.number, about(self.sweep), others, time.time()))

    def note(self, status: str, reason: str = "") -> None:
        """Of the sweep's jobs this one is now so; nothing for a run by itself."""
        if self.sweep is not None:
            (self.sweep / FOLDER).mkdir(parents=True, exist_ok=True)
            state = {"job": self.number, "folder": str(self.folder), "status": status, "reason": reason}
            write_json(self.sweep / FOLDER / f"{self.number}.json", state)


def job_of(told: Any) -> Job:
    """From Hydra's own node of the config."""
    sweeps = told.mode == RunMode.MULTIRUN
    folder = Path(told.runtime.output_dir)
    return Job(folder, Path(told.sweep.dir) if sweeps else None, int(told.job.num) if sweeps else 0)


def taken(key: str, folder: Path) -> UserError:
    return UserError(f"{key}={folder}: another run is at work in this folder; allowed is a folder of its own")


def notes(sweep: Path) -> list[dict[str, Any]]:
    """What the sweep's jobs noted, in their order."""
    found = []
    for path in (sweep / FOLDER).glob("*.json"):
        try:
            if path.name != SWEEP:
                found.append(read_json(path))
        except ValueError:  # half written by a full disk: as if it had not been noted
            continue
    return sorted((note for note in found if isinstance(note.get("job"), int)), key=lambda note: int(note["job"]))


def about(sweep: Path) -> dict[str, Any]:
    """How many jobs it has (None: nobody knows) and when it began."""
    try:
        return read_json(sweep / FOLDER / SWEEP)
    except ValueError:
        return {}


def progress(number: int, sweep: dict[str, Any], others: Sequence[dict[str, Any]], now: float) -> str:
    """'job 2 of 9, about 3 min left', from the pace of the jobs that have ended."""
    total, ended = sweep.get("jobs"), sum(note.get("status") != LOST for note in others)
    if not total:
        return f"job {number + 1}"
    left = (now - float(sweep.get("started", now))) / ended * (total - ended) if ended else 0.0
    return f"job {number + 1} of {total}" + (f", about {duration(left)} left" if left else "")


def duration(seconds: float) -> str:
    """'40 s', '12 min', '2.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class SweepStatus(Callback):
    """Hydra's callback (conf/config.yaml): output folders are claimed, and a sweep's end is told."""

    failed = 0
    """Of the jobs of this process's sweep, those that are not done."""
    sweep: Path | None = None
    """Its folder; None: no sweep."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        own_folder(config, "run")
        stop.begin()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        own_folder(config, "sweep")
        SweepStatus.sweep = sweep = Path(config.hydra.sweep.dir)
        remove(sweep / FOLDER)
        (sweep / FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(sweep / FOLDER / SWEEP, {"jobs": count(config), "started": time.time()})
        stop.begin(lambda: tell_workers(lambda: any(note["status"] == LOST for note in notes(sweep))))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        tell(Path(config.hydra.sweep.dir))


def own_folder(config: DictConfig, kind: str) -> None:
    """Claim hydra.run.dir or hydra.sweep.dir: of the default, which tells no two runs of one second apart, the first
    free name. Ends the process with status 2 where another run works in the folder that the user named."""
    node, key = config.hydra[kind], f"hydra.{kind}.dir"
    folder = Path(node.dir)
    named = any(str(o).lstrip("+").startswith(f"{key}=") for o in config.hydra.overrides.hydra)
    try:
        if named:
            if claim(folder):
                return
            print(f"simu: {taken(key, folder)}", file=sys.stderr)
            sys.exit(2)  # Hydra would make a warning of an error
        own = claim_new(folder)
    except OSError:  # Hydra meets it again, and it is explained there
        return
    if own != folder:
        with read_write(config), open_dict(config):
            node.dir = str(own)
            config.hydra.overrides.hydra.append(f"{key}='{own}'")  # by which each job is composed


def count(config: DictConfig) -> int | None:
    """How many jobs Hydra's own sweeper makes of the command line; None for another sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = config.hydra.sweeper
    if not str(sweeper._target_).endswith(".BasicSweeper"):
        return None
    words = [*(f"{key}={value}" for key, value in (sweeper.params or {}).items()), *config.hydra.overrides.task]
    try:
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        return len(BasicSweeper.split_arguments(parser.parse_overrides(words), None)[0])
    except Exception:  # said by the sweeper itself, in a moment
        return None


def done_of(sweep: Path) -> tuple[int, int]:
    """Jobs that are done, and all."""
    found = notes(sweep)
    return sum(note.get("status") in DONE for note in found), about(sweep).get("jobs") or len(found)


def tell(sweep: Path) -> None:
    """The end of a sweep: its table and winner, how many jobs are done, and why the others are not, a line each."""
    if int(os.environ.get("RANK", "0")) > 0:
        return
    found = notes(sweep)
    say_results(found)
    done, total = done_of(sweep)
    print(f"sweep: {done} of {total} jobs done in {sweep}", file=sys.stderr)
    for note in found:
        if note.get("status") not in DONE:
            folder = Path(str(note.get("folder")))
            where = sweep / folder.relative_to(sweep.resolve()) if folder.is_relative_to(sweep.resolve()) else folder
            print(f"  failed {where}: {note.get('reason') or note.get('status')}", file=sys.stderr)
    if total > len(found):
        print(f"  not started: {total - len(found)}", file=sys.stderr)
    SweepStatus.failed = total - done


def say_results(found: Sequence[dict[str, Any]]) -> None:
    """The jobs' figures beside each other, and the winner; a sweep is never lost to printing them."""
    from simu.report.sweep import show_sweep

    folders = {Path(str(note["folder"])): int(note["job"]) for note in found if note.get("status") == "completed"}
    try:
        show_sweep(folders)
    except Exception as error:
        log.warning("sweep: no table (%s: %s); python -m simu.report makes one", type(error).__name__, error)
