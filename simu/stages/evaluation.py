"""The evaluation stage: what an evaluator says of one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from simu.metrics.metric import Metric
from simu.slots import Evaluator
from simu.stages.artifact import Artifact, Context, Setup
from simu.store.cache import CHECKPOINT
from simu.store.files import read_json_lines, write_json, write_json_lines
from simu.types import Evaluation, Example, Splits, Subject

NAME, TOGETHER = "evaluation", False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    model: Artifact
    evaluator: Evaluator
    data: str
    """The data set's name."""
    rows: Mapping[str, tuple[Example, ...]]
    """By split."""
    metrics: tuple[Metric, ...]
    """Row metrics that evaluators take from the table."""
    reference: Artifact | None
    """Evaluation of a model that never saw the forget rows."""
    setup: Setup


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """folder/metrics.json, generations.jsonl and warnings.json."""
    model, tokenizer = inputs.model.load()
    setup = inputs.setup
    result = inputs.evaluator(
        Subject(model, tokenizer, setup.template, setup.max_length, folder / CHECKPOINT),
        Splits(name=inputs.data, forget=(), retain=(), evaluation=inputs.rows),
        reference=inputs.reference and inputs.reference.load(),
    )
    write_json(folder / "metrics.json", result.metrics)
    write_json_lines(folder / "generations.jsonl", result.rows)
    write_json(folder / "warnings.json", result.warnings)


def load(inputs: Inputs, folder: Path, context: Context) -> Evaluation:
    metrics, warnings = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "warnings"))
    return Evaluation(metrics=metrics, rows=read_json_lines(folder / "generations.jsonl"), warnings=warnings)
