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
from simu.types import Evaluation, Example, Splits

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
    result = inputs.evaluator(
        model,
        tokenizer,
        Splits(name=inputs.data, forget=(), retain=(), evaluation=inputs.rows),
        inputs.setup.template,
        max_length=inputs.setup.max_length,
        reference=inputs.reference and inputs.reference.load(),
        checkpoint=folder / CHECKPOINT,
    )
    write_json(folder / "metrics.json", result.metrics)
    write_json_lines(folder / "generations.jsonl", result.rows)
    write_json(folder / "warnings.json", result.warnings)


def load(inputs: Inputs, folder: Path, context: Context) -> Evaluation:
    metrics, warnings = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "warnings"))
    return Evaluation(metrics=metrics, rows=read_json_lines(folder / "generations.jsonl"), warnings=warnings)
