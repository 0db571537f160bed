"""The state of a sweep, told by its own jobs: which are done, which failed and why."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from simu.store.files import write_json

FOLDER = ".jobs"
"""In the sweep's folder: a file a job, written by the process that runs it, whatever the launcher."""
DONE = ("completed", "dry run")


class SweepStatus(Callback):
    """Hydra's callback (conf/config.yaml). Says at the end of a sweep which jobs failed and why."""

    failed = 0

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        shutil.rmtree(Path(config.hydra.sweep.dir) / FOLDER, ignore_errors=True)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self._note(config, {"status": "killed"})

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        folder = Path(config.hydra.runtime.output_dir)
        try:
            record = json.loads((folder / "provenance.json").read_text())
        except (OSError, ValueError):
            record = {"status": "failed", "reason": "ended before its first stage"}
        self._note(config, {key: record.get(key) for key in ("status", "reason")} | {"folder": str(folder)})

    def _note(self, config: DictConfig, state: dict[str, Any]) -> None:
        if "MULTIRUN" in str(config.hydra.mode):
            folder = Path(config.hydra.sweep.dir) / FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{config.hydra.job.num}.json", {"job": config.hydra.job.num} | state)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        base = Path(config.hydra.sweep.dir)
        records = [json.loads(path.read_text()) for path in (base / FOLDER).glob("*.json")]
        bad = sorted((r for r in records if r.get("status") not in DONE), key=lambda r: int(r["job"]))
        print(f"sweep: {len(records) - len(bad)} of {len(records)} jobs done in {base}", file=sys.stderr)
        for record in bad:
            folder = Path(record.get("folder") or base / str(record["job"]))
            where = base / folder.relative_to(base.resolve()) if folder.is_relative_to(base.resolve()) else folder
            print(f"  failed {where}: {record.get('reason') or record.get('status')}", file=sys.stderr)
        SweepStatus.failed = len(bad)
