"""A run: target model → attribution → mask → unlearning → evaluation. This page is the table of contents.

What each stage does and depends on is in `simu.stages`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from simu.config import RunConfig
from simu.dryrun import describe
from simu.report.summary import print_summary
from simu.stages import Stages
from simu.store import provenance
from simu.store.files import digest, write_json

log = logging.getLogger("simu")


def run(
    cfg: RunConfig, config: dict[str, Any], folder: Path, overrides: list[str], labels: Mapping[str, str]
) -> float | None:
    """Do the stages in `cfg.stages`, fill the run's folder, return the aggregate after unlearning (None: none asked).

    `config` is the composed config as plain values, `overrides` the command line, both for the record.
    """
    record = provenance.describe(config, digest(config), overrides)
    write_json(folder / "provenance.json", record)
    stages = Stages(cfg, folder)
    stages.splits  # noqa: B018  data is read and checked before anything is opened or loaded
    if cfg.dry_run:
        print(describe(stages))
        write_json(folder / "provenance.json", record | {"status": "dry run", "finished": provenance.now()})
        return None
    cfg.model.check(cfg.data.name)  # what is out of reach is said before hours of work, not after
    if "evaluation" in cfg.stages:
        cfg.evaluator.check()
    if stages.main:
        stages.tracker = cfg.tracker.open(folder, config, _labels(cfg, labels))
    try:
        metrics = do(stages, cfg)
    except BaseException:
        stages.tracker.finish(exit_code=1)
        raise
    stages.tracker.finish()
    record |= {"status": "completed", "finished": provenance.now(), "stages": stages.done, "mask": stages.counts}
    write_json(folder / "provenance.json", record)
    log.info("run folder: %s", folder)
    return metrics.get("aggregate")


def do(stages: Stages, cfg: RunConfig) -> dict[str, float]:
    """The stages in order. Each pulls those it needs, so leaving one out of `cfg.stages` saves its artifacts only."""
    metrics: dict[str, float] = {}
    if "target" in cfg.stages:
        stages.say_target()
    if "evaluation" in cfg.stages:
        metrics |= {f"original/{name}": value for name, value in stages.original.metrics.items()}
    if "attribution" in cfg.stages:
        stages.save_scores()
    if "mask" in cfg.stages:
        stages.save_mask()
    if "unlearning" in cfg.stages:
        stages.save_training()
    if "evaluation" in cfg.stages:
        metrics |= stages.unlearned.metrics
        stages.save_evaluation(metrics)
        if stages.main:
            print_summary(metrics, cfg.method.name)
    if cfg.save_model:
        stages.save_model()
    return metrics


def record_failure(folder: Path, reason: str) -> None:
    """Mark the run as failed, with a one-line reason, for sweeps and reports."""
    path = folder / "provenance.json"
    record = json.loads(path.read_text()) if path.is_file() else {"schema": provenance.SCHEMA}
    with suppress(OSError):  # a full disk: what the run failed with is the thing to say
        write_json(path, record | {"status": "failed", "reason": reason, "finished": provenance.now()})


def _labels(cfg: RunConfig, labels: Mapping[str, str]) -> dict[str, str]:
    """How a dashboard groups the run."""
    group = labels.get("group") or f"{cfg.model.name}-{cfg.data.name}"
    return {
        "group": group,
        "job_type": "run" if "evaluation" in cfg.stages else cfg.stages[-1],
        "name": f"{cfg.model.name}-{cfg.data.name}-{cfg.method.name}-{cfg.seed}",
        "method": cfg.method.name,
        "data": cfg.data.name,
        "model": cfg.model.name,
        "seed": str(cfg.seed),
    }
