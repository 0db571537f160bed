"""The mask stage: which neurons train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from simu.slots import Mask
from simu.stages.artifact import Artifact, Context
from simu.store.files import write_tensors
from simu.types import NeuronMask, NeuronUnit

NAME, TOGETHER = "mask", False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    mask: Mask
    forget: Artifact | None
    """Scores of the forget rows, where the mask reads them."""
    retain: Artifact | None
    unit: NeuronUnit
    shape: tuple[int, int]
    """Layers and neurons a layer."""


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """folder/mask.safetensors: bool or float [L, units], with the unit."""
    forget, retain = (None if side is None else side.load() for side in (inputs.forget, inputs.retain))
    chosen = inputs.mask(forget, retain, inputs.shape)
    write_tensors(folder / "mask.safetensors", {"mask": chosen}, {"unit": inputs.unit})


def load(inputs: Inputs, folder: Path, context: Context) -> NeuronMask:
    return load_file(folder / "mask.safetensors")["mask"]
