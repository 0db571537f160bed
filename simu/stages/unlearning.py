"""The unlearning stage: objective × optimizer × selection on a copy of the target."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file

from simu.data.batching import Encoded, encode_examples, pad_id
from simu.data.refusals import refusals
from simu.models.load import Loaded
from simu.selection.core import apply_tensors
from simu.sharding import shard
from simu.slots import Objective, Optimizer, Perturbation, Selection
from simu.stages.artifact import Artifact, Context, Setup
from simu.store.cache import CHECKPOINT
from simu.store.files import write_json, write_tensors
from simu.training import Training, train
from simu.types import Example, NeuronUnit

NAME, TOGETHER = "unlearning", True
LOG, WARNINGS = "train_log.jsonl", "warnings.json"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    target: Artifact
    mask: torch.Tensor | None
    """By value: two masks that are equal give one result. None: the selection reads none."""
    unit: NeuronUnit
    """What the mask is of."""
    objective: Objective
    optimizer: Optimizer
    perturbation: Perturbation
    selection: Selection
    training: Training
    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    alternatives: Artifact | None = None
    """The target's own other answers to the rows to forget, where the forget loss reads these."""
    setup: Setup
    seed: int


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """folder/weights.safetensors (every tensor that changed), train_log.jsonl (a record a step) and warnings.json."""
    setup = inputs.setup
    model, tokenizer = inputs.target.load()

    def encode(rows: Sequence[Example]) -> list[Encoded]:
        return encode_examples(tokenizer, setup.template, rows, setup.max_length)

    selection = inputs.selection(shard(model), inputs.mask, unit=inputs.unit, master=setup.precision.master)
    optimizer = inputs.optimizer(selection.named_parameters())
    trained = train(
        model,
        selection,
        optimizer,
        inputs.objective,
        encode(inputs.forget),
        encode(inputs.retain),
        alternatives=encode(alternatives(inputs)),
        perturbation=inputs.perturbation,
        settings=inputs.training,
        pad_id=pad_id(tokenizer),
        seed=inputs.seed,
        on_step=StepLog(folder / LOG, context.tracker) if context.main else None,
        checkpoint=folder / CHECKPOINT / "training.pt",
    )
    tensors = selection.trained_tensors()
    if context.main:
        write_tensors(folder / "weights.safetensors", tensors)
        write_json(folder / WARNINGS, trained.warnings)


def alternatives(inputs: Inputs) -> Sequence[Example]:
    """What stands in the place of the answers to forget; empty where the forget loss reads the answers alone."""
    if inputs.objective.forget.answers == "original":
        return ()
    if inputs.alternatives is not None:
        return cast(Sequence[Example], inputs.alternatives.load())
    return refusals(inputs.forget, inputs.seed)


def load(inputs: Inputs, folder: Path, context: Context) -> Loaded:
    """The target with the tensors that unlearning changed: a plain model."""
    model, tokenizer = inputs.target.load()
    apply_tensors(model, load_file(folder / "weights.safetensors"))
    return model, tokenizer


def warnings(folder: Path) -> list[str]:
    """What training warned of."""
    found: list[str] = json.loads((folder / WARNINGS).read_text(encoding="utf-8"))
    return found


class StepLog:
    """train_log.jsonl and the tracker, a record a step; after a restart the file begins again from the first record."""

    def __init__(self, path: Path, tracker: Any):
        path.unlink(missing_ok=True)
        self.path, self.tracker = path, tracker

    def __call__(self, record: Mapping[str, Any]) -> None:
        with self.path.open("a") as f:
            f.write(json.dumps(record) + "\n")
        send(self.tracker, record)


def send(tracker: Any, record: Mapping[str, Any]) -> None:
    """One step's record, as a tracker takes it."""
    tracker.log({k: v for k, v in record.items() if v is not None}, step=int(record["step"]))
