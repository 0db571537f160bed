"""What stands around a job: its folder and labels as Hydra tells them, and what becomes of its errors."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simu import stop

if TYPE_CHECKING:
    from omegaconf import DictConfig

warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/")  # our defaults over a plugin's; in workers too
log = logging.getLogger("simu")

SINGLE: list[Exception] = []
"""What a single (not a sweep's) job failed with: raised at the end, since Hydra would print the overrides above it."""


class SaidOnce(logging.Filter):
    """A Slurm cluster without accounting is told of every few seconds (sacct); once is enough."""

    def __init__(self) -> None:
        super().__init__()
        self.said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if "sacct error" not in record.getMessage():
            return True
        first, self.said = not self.said, True
        return first


logging.getLogger("submitit").addFilter(SaidOnce())


@dataclass(frozen=True)
class JobSettings:
    """What Hydra knows of a job beside its config."""

    folder: Path
    overrides: list[str]
    options: dict[str, str]
    """Slot → option."""
    seeded: list[str]
    """Keys whose value follows the run's seed, so that they tell no two configs apart."""
    labels: dict[str, str]
    """How a dashboard groups the run."""


def job_settings(config: DictConfig) -> JobSettings:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from simu.cli.labels import labels

    told = HydraConfig.get()
    options = {str(k): str(v) for k, v in told.runtime.choices.items() if v is not None and not k.startswith("hydra")}
    raw = OmegaConf.to_container(config, resolve=False)
    seeded = [key for key, value in _leaves(raw, "") if isinstance(value, str) and "${seed}" in value]
    job = int(told.job.num) if told.mode == RunMode.MULTIRUN else None
    overrides = list(told.overrides.task)
    from simu.report.defaults import effective  # numpy and safetensors, which by now are there

    said = labels(config, effective(options, dict(_leaves(raw, ""))), overrides, job)
    return JobSettings(Path(told.runtime.output_dir), overrides, options, seeded, said)


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def guarded(job: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """The job in a folder of its own; where it fails or is stopped, its record says so, and its sweep's notes. After a
    failure the sweep's other jobs go on."""

    @wraps(job)
    def run(config: DictConfig) -> float | None:
        from simu.console import forgiving
        from simu.store.cache import let_go

        forgiving()  # a launcher's worker, too
        logging.captureWarnings(True)
        if int(os.environ.get("RANK", "0")) > 0:
            logging.disable(logging.INFO)
        stop.listen(speaks=False)  # a worker of a launcher does not yet
        begins = stop.begin()
        try:
            return _recorded(job, config)
        finally:
            let_go()
            if begins:
                stop.end()

    return run


def _recorded(job: Callable[[DictConfig], float | None], config: DictConfig) -> float | None:
    from hydra.core.hydra_config import HydraConfig

    from simu.cli.messages import one_line
    from simu.cli.sweeps import job_of
    from simu.store.claim import release
    from simu.store.provenance import record_end, status_of
    from simu.types import UserError

    own, mine = job_of(HydraConfig.get()), False

    def ended(status: str, reason: str) -> None:
        own.note(status, reason)
        if mine:
            record_end(own.folder, status, reason)

    try:
        stop.check()
        own.start()
        mine = True
        found = job(config)
        own.note(status_of(own.folder))
        return found
    except (KeyboardInterrupt, SystemExit) as told:
        ended("stopped", stop.reason(told))
        raise
    except Exception as error:
        ended("failed", one_line(error))
        if own.sweep is None:
            SINGLE.append(error)
            return None
        log.error("failed: %s", one_line(error), exc_info=not isinstance(error, UserError))
        return float("nan")
    finally:
        if mine and own.sweep is not None:
            release(own.folder)
