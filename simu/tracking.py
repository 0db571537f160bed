"""Where a run is watched. The only file that imports wandb.

Offline is the default: the files lie in the run's folder and `wandb sync` sends them when the user asks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor

from simu.console import inert
from simu.fields import between

log = logging.getLogger("simu")


QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
"""W&B's words, and its reports about itself to its makers, which looked a host up in every offline run."""
PRIVATE: Mapping[str, Any] = {
    "allow_offline_artifacts": False,
    "console": "off",
    "host": "",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Settings by which a run's W&B files hold what it is given here, and nothing of the machine, its name or its user."""


class Run(Protocol):
    """An open tracker run."""

    def log(self, record: Mapping[str, float], step: int) -> None: ...
    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None: ...
    def heatmap(self, name: str, values: Tensor) -> None: ...
    def summary(self, metrics: Mapping[str, float]) -> None: ...
    def finish(self, exit_code: int = 0) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Nowhere:
    """No tracker; the run folder holds everything all the same."""

    def open(self, folder: Path, config: Mapping[str, Any], labels: Mapping[str, str]) -> Run:
        return Silent()


def _nothing(*_: object, **__: object) -> None: ...


class Silent:
    """A run that goes nowhere."""

    log = table = heatmap = summary = finish = staticmethod(_nothing)


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Weights & Biases: scalars by step, generations as a table, attribution and mask as images, final metrics."""

    mode: Literal["offline", "online"]
    project: str
    entity: str | None
    group: str | None
    """Runs shown together; None: model-data, or the sweep's name."""
    table_rows: Annotated[int, between(0, 100_000)]
    """Generations sent in the table, at most."""

    def open(self, folder: Path, config: Mapping[str, Any], labels: Mapping[str, str]) -> Run:
        run = _WandbRun(self.table_rows)
        run.run = run.attempt(lambda: self._init(folder, config, labels))
        return run

    def _init(self, folder: Path, config: Mapping[str, Any], labels: Mapping[str, str]) -> Any:
        for name, value in QUIET.items():  # read while it is imported
            os.environ.setdefault(name, value)
        import wandb

        run = wandb.init(
            mode=self.mode,
            project=self.project,
            entity=self.entity,
            dir=folder,
            config=dict(config) | {"kind": labels["kind"]},
            group=self.group or labels["group"],
            job_type=labels["job_type"],
            name=labels["name"],
            tags=[
                inert(tag)[:64] for tag in (labels["method"], labels["data"], labels["model"], f"seed={labels['seed']}")
            ],
            reinit="finish_previous",  # a sweep's jobs share a process: never into the run of a job that broke off
            settings=wandb.Settings(**PRIVATE),
        )
        run.define_metric("train/*", step_metric="train/step")
        return run


class _WandbRun:
    """Watching never costs a run: what W&B raises is said once, and the rest of the run goes unwatched."""

    def __init__(self, table_rows: int):
        self.run: Any = None
        self.table_rows, self.step = table_rows, 0

    def attempt(self, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Exception as error:
            self.run = None
            log.warning("tracker: W&B failed (%s); the run goes on without it", " ".join(str(error).split())[:200])

    def send(self, values: Callable[[], Mapping[str, Any]], step: int) -> None:
        """`values` at `step`; W&B takes a step's values together and drops those of a step before its last."""
        if self.run is not None:
            self.step = max(self.step, step)
            self.attempt(lambda: self.run.log(values(), step=self.step))

    def log(self, record: Mapping[str, float], step: int) -> None:
        self.send(lambda: {f"train/{k}": v for k, v in record.items()}, step)

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        def made() -> dict[str, Any]:
            import wandb

            columns: list[str | int] = ["id", "split", "prompt", "answer", "original", "generated"]
            data = [[str(r.get(str(c), "")) for c in columns] for r in rows[: self.table_rows]]
            table = wandb.Table(columns=columns, data=data)
            table.bind_to_run(self.run, name, self.step)  # a file of the run; else an artifact, under the user's home
            return {name: table}

        self.send(made, self.step)

    def heatmap(self, name: str, values: Tensor) -> None:
        def made() -> dict[str, Any]:
            import wandb

            return {name: wandb.Image(heat(values), caption=f"{name}: layers down, neurons across")}

        self.send(made, self.step)

    def summary(self, metrics: Mapping[str, float]) -> None:
        if self.run is not None:
            self.attempt(lambda: self.run.summary.update(dict(metrics)))

    def finish(self, exit_code: int = 0) -> None:
        if self.run is not None:
            self.attempt(lambda: self.run.finish(exit_code=exit_code))


def heat(values: Tensor, width: int = 1024, row_height: int = 16) -> Any:
    """Layers × neurons as a grey image [L·row_height, ≤ width]: each layer scaled to its own maximum, neurons pooled by
    maximum where there are more than `width`."""
    from PIL import Image

    scores = values.float().clamp_min(0)
    if scores.shape[1] > width:
        scores = torch.nn.functional.adaptive_max_pool1d(scores.unsqueeze(0), width).squeeze(0)
    scores = scores / scores.amax(dim=1, keepdim=True).clamp_min(1e-30)
    pixels = (255 * scores).round().to(torch.uint8).repeat_interleave(row_height, dim=0)
    return Image.fromarray(pixels.numpy())
