"""What a part of a selection is, and what all parts need below them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from simu.models.anatomy import Anatomy
from simu.types import NeuronMask, NeuronUnit, UserError

COMPACT: dict[NeuronUnit, str] = {"row": "selected_rows", "hidden": "selected_columns"}
"""What the compact parameter of a down-projection's selected neurons is called."""


class Part(Protocol):
    """Some of the model's tensors, as they train."""

    names: tuple[str, ...]
    """Qualified names, in the plain model, of the tensors that change."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def sync(self, force: bool = False) -> None:
        """Write what the optimizer holds to what the model computes with, where it has changed."""

    def merge(self) -> None:
        """sync, then leave the module as it was."""

    def scaled(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Parameters whose update is scaled, and by how much (broadcast over the parameter)."""

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """By name, what tensors will be once merged, where the plain model's own are not that yet."""


def freeze(model: nn.Module) -> dict[str, bool]:
    """Freeze every parameter; which ones were trainable."""
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    return before


def check_mask(parts: Anatomy, mask: NeuronMask, unit: NeuronUnit) -> None:
    expected, width = parts.shape(unit), "d_model" if unit == "row" else "d_ff"
    if tuple(mask.shape) != expected:
        raise UserError(
            f"mask: shape {tuple(mask.shape)}; allowed is {expected}, this model's [layers, {width}] (unit={unit})"
        )
    if mask.dtype != torch.bool and not (mask.is_floating_point() and ((mask >= 0) & (mask <= 1)).all()):
        raise UserError("mask: some weights are outside [0, 1]; allowed is bool, or float in [0, 1]")


def check_free(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if set(COMPACT.values()) & set(module._parameters) or hasattr(module, "lora_A"):
            raise UserError(f"selection: {name} already has selected neurons or an adapter; merge() it before")


def check_tensors(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str, *, complete: bool) -> None:
    for name, tensor in given.items():
        if name not in own:
            raise UserError(f"{what}: {name} is not a tensor of this model and selection")
        if own[name].shape != tensor.shape:
            raise UserError(f"{what}: {name} has shape {tuple(tensor.shape)}; allowed is {tuple(own[name].shape)}")
    if complete and (missing := set(own) - set(given)):
        raise UserError(f"{what}: {len(missing)} tensors are missing, {min(missing)} for one")


def whole(tensor: Tensor) -> Tensor:
    """The tensor, detached; of a sharded one, all of it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def write(tensor: Tensor, dim: int, index: Tensor, values: Tensor) -> None:
    """tensor[index along dim] = values, in place; of a sharded tensor, each process its own part."""
    if isinstance(tensor, DTensor):
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        own = torch.nonzero((index >= offset[dim]) & (index < offset[dim] + shape[dim])).flatten()
        values, index = values.index_select(dim, own), index[own] - offset[dim]
        for other in set(range(tensor.ndim)) - {dim}:
            values = values.narrow(other, offset[other], shape[other])
        tensor = tensor.to_local()
    tensor.index_copy_(dim, index, values)


def is_low(tensor: Tensor) -> bool:
    """Whether a small step is lost in this dtype."""
    return tensor.dtype in (torch.bfloat16, torch.float16)
