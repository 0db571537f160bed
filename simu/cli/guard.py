"""What stands around a job: its folder and labels as Hydra tells them, and what becomes of its errors."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from simu.cli.labels import labels
from simu.cli.messages import one_line
from simu.console import forgiving
from simu.types import UserError

warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/")  # our defaults over a plugin's; in workers too
log = logging.getLogger("simu")

SINGLE: list[Exception] = []
"""What a single (not a sweep's) job failed with: raised at the end, since Hydra would print the overrides above it."""


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
    """The job; where it fails, its record says so. A sweep's other jobs go on, and SweepStatus lists this one."""

    @wraps(job)
    def run(config: DictConfig) -> float | None:
        told = HydraConfig.get()
        forgiving()  # a launcher's worker, too
        logging.captureWarnings(True)
        if int(os.environ.get("RANK", "0")) > 0:
            logging.disable(logging.INFO)
        try:
            return job(config)
        except Exception as error:
            from simu.store.provenance import record_end

            record_end(Path(told.runtime.output_dir), "failed", one_line(error))
            if told.mode == RunMode.MULTIRUN:
                log.error("failed: %s", one_line(error), exc_info=not isinstance(error, UserError))
                return float("nan")
            SINGLE.append(error)
            return None

    return run
