"""The attribution stage: how much each neuron supports the answers of some rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from simu.attribution.samples import count_samples
from simu.data.batches import attribution_batches
from simu.fields import narrow
from simu.slots import Attribution, WithCompleteness
from simu.stages.artifact import Artifact, Context, Setup
from simu.store.cache import CHECKPOINT
from simu.store.files import write_json, write_tensors
from simu.types import Example, Scores

NAME, TOGETHER = "attribution", False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    target: Artifact
    attribution: Attribution
    rows: tuple[Example, ...]
    other: tuple[Example, ...] | None
    """Rows of the other side, where the attribution compares with them."""
    setup: Setup


def sample(rows: tuple[Example, ...], count: int, seed: int) -> tuple[Example, ...]:
    """`count` of the rows (fewer where there are fewer), drawn with `seed`: the retain side, as large as the forget."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(narrow(seed)))
    return tuple(rows[i] for i in order[:count].tolist())


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """folder/attribution.safetensors (float32 [L, units], and float64 [L] completeness where defined), samples.json."""
    model, tokenizer = inputs.target.load()
    attribution, setup = inputs.attribution, inputs.setup

    def batches_of(rows: tuple[Example, ...]) -> list[dict[str, torch.Tensor]]:
        return attribution_batches(
            tokenizer,
            setup.template,
            rows,
            batch_size=attribution.batch_size,
            max_length=setup.max_length,
            tokens=attribution.tokens,
            device=context.device,
        )[0]

    batches, where = batches_of(inputs.rows), folder / CHECKPOINT
    if isinstance(attribution, WithCompleteness):
        values, off = attribution.with_completeness(model, batches, checkpoint=where)
    else:
        other = None if inputs.other is None else batches_of(inputs.other)
        values, off = attribution(model, batches, against=other, checkpoint=where), None
    found = {"scores": values} if off is None else {"scores": values, "completeness": off}
    write_tensors(folder / "attribution.safetensors", found, {"unit": attribution.unit})
    write_json(folder / "samples.json", {"samples": count_samples(batches, attribution.tokens)})


def load(inputs: Inputs, folder: Path, context: Context) -> Scores:
    found = load_file(folder / "attribution.safetensors")
    samples = int(json.loads((folder / "samples.json").read_text())["samples"])
    return Scores(found["scores"], samples, found.get("completeness"), inputs.attribution.unit)
