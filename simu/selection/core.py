"""What trains of one model, whatever its parts are.

Not training a neuron equals training it and masking its gradient, moments, decay and update (Eq. 5–7), so gradients,
moments and float32 masters exist for the selected ones only.

A `Selection` is made of parts (parts.py). Each part owns some of the model's tensors: `UnitPart` the selected neurons
of one down-projection, `TensorPart` one whole tensor, `LoraPart` peft's adapters on attention. The frozen weights stay
in the model's dtype and the model stays usable throughout: what it computes with follows what the optimizer changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from simu.selection.parts import Part, check_tensors, whole

Scope = Literal["selected", "all"]


class Selection:
    """What trains of one model. `parameters()` is for the optimizer; `merge()` leaves a plain model.

    Hooks on optimizers' steps (torch's own, for every optimizer that holds one of these parameters) scale the updates
    of soft masks and write the weights back at once. A change by other means is noticed before the next forward by the
    tensors' version counters; `sync()` does it explicitly (compiled models, writes through .data).
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part], trainable_before: Mapping[str, bool]) -> None:
        self.model = model
        self.names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        self._parts: tuple[Part, ...] = tuple(parts)
        self._trainable_before = dict(trainable_before)
        self._before_step: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._hooks = _hook_optimizers(self)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer updates: masters where there are some; selected rows are […].selected_rows [n, F],
        columns […].selected_columns [n, D]."""
        for part in self._parts:
            yield from part.named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    @property
    def n_trained(self) -> int:
        """Trained coordinates."""
        return sum(p.numel() for p in self.parameters())

    def sync(self, force: bool = False) -> None:
        """Write trained values to the weights that the model computes with, where they changed (or all: `force`)."""
        for part in self._parts:
            part.sync(force)

    def merge(self) -> nn.Module:
        """Write everything back, remove every hook and extra parameter; the same model, plain. Once merged, `names` and
        `trained_tensors` still answer."""
        for hook in self._hooks:
            hook.remove()
        for part in self._parts:
            part.merge()
        self._parts = ()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._trainable_before[name])
        return self.model

    def state_dict(self) -> dict[str, Tensor]:
        """Trained values by name, as the optimizer holds them (masters in float32): enough to resume exactly."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """The inverse. Raises UserError unless names and shapes are the same."""
        own = dict(self.named_parameters())
        check_tensors(own, state_dict, "selection state", complete=True)
        for name, tensor in state_dict.items():
            own[name].copy_(tensor)
        self.sync(force=True)

    def trained_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the plain model that training may have changed, merged, by its qualified name (no copies once
        merged; whole, so that of a sharded model every process must ask). `apply_tensors` puts them into another copy.
        """
        self.sync()
        merged = {name: tensor for part in self._parts for name, tensor in part.merged()}
        return {name: merged[name] if name in merged else whole(self.model.get_parameter(name)) for name in self.names}

    def _step_begins(self) -> None:
        scaled = (pair for part in self._parts for pair in part.scaled())
        self._before_step = [(parameter, parameter.detach().clone(), weights) for parameter, weights in scaled]

    @torch.no_grad()
    def _step_ended(self) -> None:
        for parameter, before, weights in self._before_step:
            parameter.copy_(torch.lerp(before, parameter, weights))
        self._before_step = []
        self.sync(force=True)  # fused optimizers do not raise a tensor's version


@torch.no_grad()
def apply_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put `Selection.trained_tensors()` of a model into another copy of it, in place. Raises UserError unless every
    name and shape is the model's."""
    own = dict(model.named_parameters(remove_duplicate=False))
    check_tensors(own, tensors, "trained tensors", complete=False)
    for name, tensor in tensors.items():
        target = own[name]
        if isinstance(target, DTensor):
            tensor = distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements)
        target.copy_(tensor)
    return model


def _hook_optimizers(selection: Selection) -> list[Any]:
    """Tell the selection of steps of optimizers that hold its parameters, for as long as it lives."""
    alive = weakref.ref(selection)

    def ours(optimizer: torch.optim.Optimizer) -> Selection | None:
        found = alive()
        if found is None:
            return None
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return found if any(id(p) in held for p in found.parameters()) else None

    def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if (found := ours(optimizer)) is not None:
            found._step_begins()

    def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if (found := ours(optimizer)) is not None:
            found._step_ended()

    hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    for hook in hooks:
        weakref.finalize(selection, hook.remove)
    return hooks
