"""Which parameters train: all of them, or attention and the selected rows of each down-projection.

Not training a row equals training it and masking its gradient, moments, decay and update (Eq. 5–7), so gradients,
moments and float32 masters exist for the selected rows only. Shapes: L layers, D d_model, F d_ff, n selected rows.

A `Selection` is made of parts. Each part owns some of the model's tensors: `RowPart` the selected rows of one
down-projection, `TensorPart` one whole tensor, `LoraPart` peft's adapters on attention. The frozen weights stay in the
model's dtype and the model stays usable throughout: what it computes with follows what the optimizer changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from simu.models.anatomy import Anatomy, anatomy, is_conv1d
from simu.types import NeuronMask, UserError, require

Scope = Literal["selected", "all"]
Attention = Literal["full", "lora"]


def select_parameters(
    model: nn.Module, mask: NeuronMask | None = None, *, scope: Scope | None = None, master: bool = True
) -> Selection:
    """Make `model` train what `mask` and `scope` say, in place, until `Selection.merge`.

    mask: bool [L, D], or float [L, D] in [0, 1], which scales a row's update exactly: θ ← θ + w·Δ.
    scope: "selected" trains q, k, v, o in full (biases too) and the rows of each down-projection (and their bias
    entries) where mask > 0; "all" trains every parameter and reads no mask. None: "selected" with a mask, else "all".
    master: bfloat16 and float16 tensors are trained through float32 masters; False trains them as they are.
    Put the model on its device, and shard it (FSDP2), before: the rows are then whole on every process, each with the
    gradient of its own share of the batch (to be summed); all else is sharded as the model is.
    Raises UserError for a mask that does not fit or a model already selected.
    """
    scope = scope or ("all" if mask is None else "selected")
    _check_free(model)
    if scope == "all":
        frozen = _freeze(model)
        return Selection(model, [TensorPart(*owner, master=master) for owner in _owners(model)], frozen)
    if mask is None:
        raise UserError("selection: scope 'selected' needs a mask; allowed is bool or float [layers, d_model]")
    parts = anatomy(model)
    _check_mask(parts, mask)
    frozen = _freeze(model)
    return Selection(model, [*_row_parts(parts, mask, master), *_attention_parts(parts, master)], frozen)


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
        """What the optimizer updates: masters where there are some; selected rows are […].selected_rows [n, F]."""
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
        _check_tensors(own, state_dict, "selection state", complete=True)
        for name, tensor in state_dict.items():
            own[name].copy_(tensor)
        self.sync(force=True)

    def trained_tensors(self) -> dict[str, Tensor]:
        """Every tensor of the plain model that training may have changed, merged, by its qualified name (no copies once
        merged; whole, so that of a sharded model every process must ask). `apply_tensors` puts them into another copy.
        """
        self.sync()
        merged = {name: tensor for part in self._parts if isinstance(part, LoraPart) for name, tensor in part.merged()}
        return {name: merged[name] if name in merged else _whole(self.model.get_parameter(name)) for name in self.names}

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
    _check_tensors(own, tensors, "trained tensors", complete=False)
    for name, tensor in tensors.items():
        target = own[name]
        if isinstance(target, DTensor):
            tensor = distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements)
        target.copy_(tensor)
    return model


# ---- the parts


class TensorPart:
    """One whole tensor, trained in place or through a float32 master.

    With a master, each backward's gradient is added to the master's and freed, and the model's tensor follows the
    master before the module runs next.
    """

    def __init__(self, name: str, module: nn.Module, attribute: str, *, master: bool) -> None:
        self.names: tuple[str, ...] = (name,)
        self.module, self.attribute = module, attribute
        tensor = self._tensor.requires_grad_(True)
        self.master = nn.Parameter(tensor.detach().float()) if master and _is_low(tensor) else None
        self._version = self.master._version if self.master is not None else 0
        self._hooks: list[Any] = []
        if self.master is not None:
            self._hooks.append(tensor.register_post_accumulate_grad_hook(self._collect))
            self._hooks.append(module.register_forward_pre_hook(self._before_forward))

    @property
    def _tensor(self) -> nn.Parameter:
        found: nn.Parameter = getattr(self.module, self.attribute)  # looked up anew: sharding replaces it
        return found

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield self.names[0], self._tensor if self.master is None else self.master

    def sync(self, force: bool = False) -> None:
        if self.master is not None and (force or self.master._version != self._version):
            with torch.no_grad():
                self._tensor.copy_(self.master)
            self._version = self.master._version

    def merge(self) -> None:
        self.sync()
        for hook in self._hooks:
            hook.remove()
        self._tensor.grad = None

    def scaled(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        yield from ()

    def _collect(self, tensor: Tensor) -> None:
        assert self.master is not None
        if self.master.grad is None:
            self.master.grad = tensor.grad.to(self.master.dtype)  # type: ignore[union-attr]
        else:
            self.master.grad.add_(tensor.grad)  # type: ignore[arg-type]
        tensor.grad = None

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling() and not isinstance(self.master, DTensor):
            self.sync()


class RowPart:
    """The selected rows of one down-projection, as compact parameters [n, F] (and [n] of its bias).

    The module keeps its class, its dense frozen weight and its cost: its forward multiplies by the dense weight, in
    which the selected rows are kept equal to the compact ones; its backward makes a gradient for these alone. Conv1D
    holds neuron k in column k; the compact parameter has it as a row all the same.
    """

    def __init__(self, name: str, module: nn.Module, index: Tensor, scale: Tensor | None, *, master: bool) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias: Tensor | None = module.bias  # type: ignore[assignment]
        index = index.to(weight.device)
        self.name, self.module, self.transposed = name, module, is_conv1d(module)
        self.names: tuple[str, ...] = (f"{name}.weight",) if bias is None else (f"{name}.weight", f"{name}.bias")
        self.scale = None if scale is None else scale.to(weight.device)
        module.register_buffer("selected_index", index, persistent=False)
        dtype = torch.float32 if master and _is_low(weight) else weight.dtype
        rows = _whole(weight).index_select(1 if self.transposed else 0, index)
        rows = (rows.t() if self.transposed else rows).to(dtype)
        module.register_parameter("selected_rows", nn.Parameter(rows.contiguous()))
        chosen = None if bias is None else nn.Parameter(_whole(bias).index_select(0, index).to(dtype))
        module.register_parameter("selected_bias", chosen)
        self._sharded = isinstance(weight, DTensor)
        self._versions = self._current_versions()
        module.forward = self.forward

    @property
    def rows(self) -> nn.Parameter:
        return self.module.selected_rows  # type: ignore[return-value]

    @property
    def bias(self) -> nn.Parameter | None:
        return self.module.selected_bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """The module's output [..., D] for x [..., F], differentiable in x, the rows and their bias."""
        if not torch.compiler.is_compiling() and not self._sharded:  # in its forward a sharded weight is but a copy
            self.sync()
        m = self.module
        y: Tensor = _SelectedRows.apply(x, m.weight, m.bias, self.rows, self.bias, m.selected_index, self.transposed)
        return y

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield f"{self.name}.selected_rows", self.rows
        if self.bias is not None:
            yield f"{self.name}.selected_bias", self.bias

    def _current_versions(self) -> tuple[int, int]:
        return self.rows._version, 0 if self.bias is None else self.bias._version

    def sync(self, force: bool = False) -> None:
        if not force and self._versions == self._current_versions():
            return
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        index: Tensor = self.module.selected_index  # type: ignore[assignment]
        with torch.no_grad():
            rows = self.rows.to(weight.dtype)
            _write(weight, 1 if self.transposed else 0, index, rows.t() if self.transposed else rows)
            if self.bias is not None:
                _write(self.module.bias, 0, index, self.bias.to(weight.dtype))  # type: ignore[arg-type]
        self._versions = self._current_versions()

    def merge(self) -> None:
        self.sync()
        del self.module.forward, self.module.selected_rows, self.module.selected_bias, self.module.selected_index

    def scaled(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        if self.scale is not None:
            yield self.rows, self.scale.to(self.rows.dtype).unsqueeze(1)
            if self.bias is not None:
                yield self.bias, self.scale.to(self.bias.dtype)


class _SelectedRows(torch.autograd.Function):
    """x [..., F] → x·Wᵀ + b [..., D] over the dense weight; backward: the gradients of x and of the rows alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor,
        row_bias: Tensor | None,
        index: Tensor,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, index)
        ctx.transposed, ctx.dtype = transposed, rows.dtype
        return nn.functional.linear(x, weight.t() if transposed else weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, index = ctx.saved_tensors
        need_x, need_rows, need_bias = (ctx.needs_input_grad[i] for i in (0, 3, 4))
        dense = weight.to(grad.dtype)  # another dtype only under autocast
        grad_x = grad @ (dense.t() if ctx.transposed else dense) if need_x else None
        chosen = grad.index_select(-1, index).reshape(-1, len(index))
        grad_rows = (chosen.t() @ x.reshape(len(chosen), -1).to(grad.dtype)).to(ctx.dtype) if need_rows else None
        grad_bias = chosen.sum(0, dtype=ctx.dtype) if need_bias else None
        return grad_x, None, None, grad_rows, grad_bias, None, None


class LoraPart:
    """peft's LoRA adapters on the attention projections; the projections themselves are frozen."""

    ADAPTER = "selection"

    def __init__(self, model: nn.Module, parts: Anatomy, lora: Lora, *, master: bool) -> None:
        from peft import LoraConfig, LoraModel  # slow to import, and needed by this option alone

        targets = [named for layer in parts.attention for named in layer]
        self.names: tuple[str, ...] = tuple(f"{name}.weight" for name, _ in targets)
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias="none",
            target_modules=[name for name, _ in targets],
            fan_in_fan_out=is_conv1d(targets[0][1]),
        )
        with torch.random.fork_rng():
            torch.manual_seed(lora.seed)
            self._tuner = LoraModel(model, config, self.ADAPTER)
        self._layers = {name: model.get_submodule(name) for name, _ in targets}
        for _, parameter in self.named_parameters():
            if master and _is_low(parameter):
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, layer in self._layers.items():
            for side in ("lora_A", "lora_B"):
                yield f"{name}.{side}", getattr(layer, side)[self.ADAPTER].weight

    @torch.no_grad()
    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """What each projection's weight will be once merged."""
        for name, layer in self._layers.items():
            weight = _whole(layer.base_layer.weight).clone()  # type: ignore[arg-type, union-attr]
            weight += layer.get_delta_weight(self.ADAPTER)  # type: ignore[operator]
            yield f"{name}.weight", weight

    def sync(self, force: bool = False) -> None:
        pass  # peft computes with the adapters themselves

    def merge(self) -> None:
        self._tuner.merge_and_unload()

    def scaled(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        yield from ()


# ---- building and checking


def _row_parts(parts: Anatomy, mask: NeuronMask, master: bool) -> Iterator[Part]:
    """A layer's selected rows; its whole tensors where every row trains in full; nothing where none does."""
    for name, module, row in zip(parts.down_names, parts.down_projections, mask, strict=True):
        index = torch.nonzero(row > 0).flatten()
        scale = None if mask.dtype == torch.bool or (row[index] == 1).all() else row[index]
        if len(index) == parts.d_model and scale is None:
            yield from _module_parts(name, module, master)
        elif len(index):
            yield RowPart(name, module, index, scale, master=master)


def _attention_parts(parts: Anatomy, master: bool) -> Iterator[Part]:
    for layer in parts.attention:
        for name, module in layer:
            yield from _module_parts(name, module, master)


def _module_parts(name: str, module: nn.Module, master: bool) -> Iterator[Part]:
    for attribute, _ in module.named_parameters(recurse=False):
        yield TensorPart(f"{name}.{attribute}", module, attribute, master=master)


def _owners(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(qualified name, module, attribute) of every parameter, once each (tied ones by their first name)."""
    for name, _ in list(model.named_parameters()):
        path, _, attribute = name.rpartition(".")
        yield name, model.get_submodule(path), attribute


def _freeze(model: nn.Module) -> dict[str, bool]:
    """Freeze every parameter; which ones were trainable."""
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    return before


def _check_mask(parts: Anatomy, mask: NeuronMask) -> None:
    expected = (parts.n_layers, parts.d_model)
    if tuple(mask.shape) != expected:
        raise UserError(f"mask: shape {tuple(mask.shape)}; allowed is {expected}, this model's [layers, d_model]")
    if mask.dtype != torch.bool and not (mask.is_floating_point() and ((mask >= 0) & (mask <= 1)).all()):
        raise UserError("mask: some weights are outside [0, 1]; allowed is bool, or float in [0, 1]")


def _check_free(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if "selected_rows" in module._parameters or hasattr(module, "lora_A"):
            raise UserError(f"selection: {name} already has selected rows or an adapter; merge() it before")


def _check_tensors(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str, *, complete: bool) -> None:
    for name, tensor in given.items():
        if name not in own:
            raise UserError(f"{what}: {name} is not a tensor of this model and selection")
        if own[name].shape != tensor.shape:
            raise UserError(f"{what}: {name} has shape {tuple(tensor.shape)}; allowed is {tuple(own[name].shape)}")
    if complete and (missing := set(own) - set(given)):
        raise UserError(f"{what}: {len(missing)} tensors are missing, {min(missing)} for one")


def _whole(tensor: Tensor) -> Tensor:
    """The tensor, detached; of a sharded one, all of it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def _write(tensor: Tensor, dim: int, index: Tensor, values: Tensor) -> None:
    """tensor[index along dim] = values, in place; of a sharded tensor, each process its own part."""
    if isinstance(tensor, DTensor):
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        own = torch.nonzero((index >= offset[dim]) & (index < offset[dim] + shape[dim])).flatten()
        values, index = values.index_select(dim, own), index[own] - offset[dim]
        for other in set(range(tensor.ndim)) - {dim}:
            values = values.narrow(other, offset[other], shape[other])
        tensor = tensor.to_local()
    tensor.index_copy_(dim, index, values)


def _is_low(tensor: Tensor) -> bool:
    """Whether a small step is lost in this dtype."""
    return tensor.dtype in (torch.bfloat16, torch.float16)


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


# ---- the components of the slot


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every parameter trains: FO-GradDiff and SO-GradDiff, as SOUL."""

    reads_mask: ClassVar[bool] = False

    def __call__(self, model: nn.Module, mask: NeuronMask | None = None, *, master: bool = True) -> Selection:
        """`mask` is not read."""
        return select_parameters(model, None, scope="all", master=master)


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Attention in full and the mask's rows of each down-projection: SIMU."""

    reads_mask: ClassVar[bool] = True

    def __call__(self, model: nn.Module, mask: NeuronMask | None, *, master: bool = True) -> Selection:
        """mask: bool or float [L, D]."""
        return select_parameters(model, mask, scope="selected", master=master)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """LoRA adapters on attention (peft) in place of attention in full, beside the mask's rows; with `mask=none`, the
    adapters alone."""

    reads_mask: ClassVar[bool] = True
    r: int = 8
    """Rank."""
    alpha: int = 16
    """The adapters' product is scaled by alpha / r."""
    dropout: float = 0.0
    """Share of the adapters' inputs that is dropped in training."""
    seed: int = 0
    """Of the adapters' initial values."""

    def __post_init__(self) -> None:
        require(self.r >= 1, "r", self.r, "a whole number ≥ 1")
        require(self.alpha >= 1, "alpha", self.alpha, "a whole number ≥ 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 ≤ dropout < 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 ≤ seed < 2^63")

    def __call__(self, model: nn.Module, mask: NeuronMask | None, *, master: bool = True) -> Selection:
        """mask: bool or float [L, D]; None selects no rows."""
        _check_free(model)
        parts = anatomy(model)
        if mask is None:
            mask = torch.zeros(parts.n_layers, parts.d_model, dtype=torch.bool)
        _check_mask(parts, mask)
        frozen = _freeze(model)
        adapters = LoraPart(model, parts, self, master=master)  # before the rows: peft freezes all it finds
        return Selection(model, [adapters, *_row_parts(parts, mask, master)], frozen)
