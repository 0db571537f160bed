"""The robustness stage: what one attack brings back of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simu.metrics.metric import Metric
from simu.robustness.victim import Victim
from simu.slots import Attack, Evaluator
from simu.stages.artifact import Artifact, Context, Setup
from simu.store.files import read_json_lines, write_json, write_json_lines
from simu.types import Evaluation, Example

NAME, TOGETHER = "robustness", False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    model: Artifact
    attack: Attack
    evaluator: Evaluator
    kept: tuple[str, ...]
    """Metrics of the evaluator that are kept; none: all of forget and retain rows."""
    data: str
    """The data set's name."""
    evaluation: Mapping[str, tuple[Example, ...]]
    """Rows by split that attacks are evaluated on."""
    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    metrics: tuple[Metric, ...]
    """Row metrics that evaluators take from the table."""
    relearn_lr: float
    setup: Setup
    seed: int


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """folder/metrics.json (SETTING/split/metric), rows.jsonl (a row, with its setting) and warnings.json."""
    victim = Victim(
        load=inputs.model.load,
        evaluator=inputs.evaluator,
        kept=inputs.kept,
        data=inputs.data,
        evaluation=inputs.evaluation,
        forget=inputs.forget,
        retain=inputs.retain,
        template=inputs.setup.template,
        max_length=inputs.setup.max_length,
        precision=inputs.setup.precision,
        relearn_lr=inputs.relearn_lr,
        seed=inputs.seed,
    )
    inputs.attack(victim)
    write_json(folder / "metrics.json", victim.metrics)
    write_json_lines(folder / "rows.jsonl", victim.rows)
    write_json(folder / "warnings.json", victim.warnings)


def load(inputs: Inputs, folder: Path, context: Context) -> Evaluation:
    metrics, warnings = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "warnings"))
    return Evaluation(metrics=metrics, rows=read_json_lines(folder / "rows.jsonl"), warnings=warnings)
