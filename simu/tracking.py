"""Where a run is watched. The only file that imports wandb.

Offline is the default: the files lie in the run's folder and `wandb sync` sends them when the user asks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor


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


class Silent:
    """A run that goes nowhere."""

    def log(self, record: Mapping[str, float], step: int) -> None: ...
    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None: ...
    def heatmap(self, name: str, values: Tensor) -> None: ...
    def summary(self, metrics: Mapping[str, float]) -> None: ...
    def finish(self, exit_code: int = 0) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Weights & Biases: scalars by step, generations as a table, attribution and mask as images, final metrics."""

    mode: Literal["offline", "online"]
    project: str
    entity: str | None
    group: str | None
    """Runs shown together; None: model-data, or the sweep's name."""
    table_rows: int
    """Generations sent in the table, at most."""

    def open(self, folder: Path, config: Mapping[str, Any], labels: Mapping[str, str]) -> Run:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        run = wandb.init(
            mode=self.mode, project=self.project, entity=self.entity, dir=folder, config=dict(config),
            group=self.group or labels["group"], job_type=labels["job_type"], name=labels["name"],
            tags=[labels["method"], labels["data"], labels["model"], f"seed={labels['seed']}"],
            settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True))  # fmt: skip
        return _WandbRun(run, self.table_rows)


class _WandbRun:
    def __init__(self, run: Any, table_rows: int):
        self.run, self.table_rows = run, table_rows

    def log(self, record: Mapping[str, float], step: int) -> None:
        self.run.log({f"train/{k}": v for k, v in record.items()}, step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        import wandb

        columns: list[str | int] = ["id", "split", "prompt", "answer", "original", "generated"]
        data = [[str(r.get(str(c), "")) for c in columns] for r in rows[: self.table_rows]]
        self.run.log({name: wandb.Table(columns=columns, data=data)})

    def heatmap(self, name: str, values: Tensor) -> None:
        import wandb

        self.run.log({name: wandb.Image(heat(values), caption=f"{name}: layers down, neurons across")})

    def summary(self, metrics: Mapping[str, float]) -> None:
        self.run.summary.update(dict(metrics))

    def finish(self, exit_code: int = 0) -> None:
        self.run.finish(exit_code=exit_code)


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
