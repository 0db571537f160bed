"""The weights stage: what is no plain model folder (a GGUF file, an adapter) becomes one, once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from simu.models.packed import Adapter, Gguf
from simu.stages.artifact import Context
from simu.store.files import write_json
from simu.types import Precision

NAME, TOGETHER = "weights", False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    source: Gguf | Adapter
    dtype: Literal["float32", "bfloat16", "float64"]
    """What the folder holds: `precision.weights`."""


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """folder/model and weights.json, which says what the weights are."""
    dtype = Precision(weights=inputs.dtype, master=False, tf32=False).dtype
    model, tokenizer = inputs.source.unpack(dtype)
    model.save_pretrained(folder / "model", safe_serialization=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "model")
    write_json(folder / "weights.json", {"source": inputs.source.describe()})


def load(inputs: Inputs, folder: Path, context: Context) -> dict[str, Any]:
    """What the weights are."""
    return dict(json.loads((folder / "weights.json").read_text(encoding="utf-8")))
