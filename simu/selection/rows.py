"""The selected rows, or columns, of each down-projection, compact. Shapes: L layers, D d_model, F d_ff, n selected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from simu.models.anatomy import Anatomy, by_unit, is_conv1d, unit_dim
from simu.selection.parts import COMPACT, Part, is_low, whole, write
from simu.selection.tensors import TensorPart, module_parts
from simu.types import NeuronMask, NeuronUnit


class UnitPart:
    """The selected neurons of one down-projection, as a compact parameter: rows [n, F] (and [n] of its bias), or
    columns [n, D] of hidden neurons (whose bias is no neuron's, and frozen).

    The module keeps its class, its dense frozen weight and its cost: its forward multiplies by the dense weight, in
    which the selected neurons are kept equal to the compact ones; its backward makes a gradient for these alone. The
    compact parameter has a neuron a row whatever the dense one has (Conv1D is transposed).
    """

    def __init__(
        self, name: str, module: nn.Module, index: Tensor, scale: Tensor | None, *, unit: NeuronUnit, master: bool
    ) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias: Tensor | None = module.bias if unit == "row" else None  # type: ignore[assignment]
        index = index.to(weight.device)
        self.name, self.module, self.unit, self.dim = name, module, unit, unit_dim(module, unit)
        self.compact = COMPACT[unit]
        self.names: tuple[str, ...] = (f"{name}.weight",) if bias is None else (f"{name}.weight", f"{name}.bias")
        self.scale = None if scale is None else scale.to(weight.device)
        module.register_buffer("selected_index", index, persistent=False)
        dtype = torch.float32 if master and is_low(weight) else weight.dtype
        chosen = by_unit(module, whole(weight).index_select(self.dim, index), unit).to(dtype)
        module.register_parameter(self.compact, nn.Parameter(chosen.contiguous()))
        entries = None if bias is None else nn.Parameter(whole(bias).index_select(0, index).to(dtype))
        module.register_parameter("selected_bias", entries)
        self._sharded = isinstance(weight, DTensor)
        self._versions = self._current_versions()
        module.forward = self.forward

    @property
    def weights(self) -> nn.Parameter:
        """Of the selected neurons, one a row: [n, F] or [n, D]."""
        return self.module.get_parameter(self.compact)

    @property
    def bias(self) -> nn.Parameter | None:
        return self.module.selected_bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """The module's output [..., D] for x [..., F], differentiable in x, the neurons and their bias."""
        if not torch.compiler.is_compiling() and not self._sharded:  # in its forward a sharded weight is but a copy
            self.sync()
        m, given = self.module, (self.weights, self.bias)
        y: Tensor = _Selected.apply(x, m.weight, m.bias, *given, m.selected_index, self.unit, is_conv1d(m))
        return y

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield f"{self.name}.{self.compact}", self.weights
        if self.bias is not None:
            yield f"{self.name}.selected_bias", self.bias

    def _current_versions(self) -> tuple[int, int]:
        return self.weights._version, 0 if self.bias is None else self.bias._version

    def sync(self, force: bool = False) -> None:
        if not force and self._versions == self._current_versions():
            return
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        index: Tensor = self.module.selected_index  # type: ignore[assignment]
        with torch.no_grad():
            write(weight, self.dim, index, by_unit(self.module, self.weights.to(weight.dtype), self.unit))
            if self.bias is not None:
                write(self.module.bias, 0, index, self.bias.to(weight.dtype))  # type: ignore[arg-type]
        self._versions = self._current_versions()

    def merge(self) -> None:
        self.sync()
        for name in ("forward", self.compact, "selected_bias", "selected_index"):
            delattr(self.module, name)

    def scaled(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        if self.scale is not None:
            yield self.weights, self.scale.to(self.weights.dtype).unsqueeze(1)
            if self.bias is not None:
                yield self.bias, self.scale.to(self.bias.dtype)

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        yield from ()


class _Selected(torch.autograd.Function):
    """x [..., F] → x·Wᵀ + b [..., D] over the dense weight; backward: the gradients of x and of the selected alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chosen: Tensor,
        chosen_bias: Tensor | None,
        index: Tensor,
        unit: NeuronUnit,
        transposed: bool,
    ) -> Tensor:
        # a column's gradient asks for no more of x than its own entry
        ctx.save_for_backward(x if unit == "row" else x.index_select(-1, index), weight, index)
        ctx.unit, ctx.transposed, ctx.dtype = unit, transposed, chosen.dtype
        return nn.functional.linear(x, weight.t() if transposed else weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        read, weight, index = ctx.saved_tensors
        need_x, need_chosen, need_bias = (ctx.needs_input_grad[i] for i in (0, 3, 4))
        dense = weight.to(grad.dtype)  # another dtype only under autocast
        grad_x = grad @ (dense.t() if ctx.transposed else dense) if need_x else None
        written = grad.index_select(-1, index) if ctx.unit == "row" else grad
        written, read = (t.reshape(-1, t.shape[-1]) for t in (written, read.to(grad.dtype)))
        left, right = (written, read) if ctx.unit == "row" else (read, written)
        grad_chosen = (left.t() @ right).to(ctx.dtype) if need_chosen else None
        grad_bias = written.sum(0, dtype=ctx.dtype) if need_bias else None
        return grad_x, None, None, grad_chosen, grad_bias, None, None, None


def unit_parts(parts: Anatomy, mask: NeuronMask, unit: NeuronUnit, master: bool) -> Iterator[Part]:
    """A layer's selected neurons; whole tensors where every one trains in full; nothing where none does."""
    for name, module, weights in zip(parts.down_names, parts.down_projections, mask, strict=True):
        index = torch.nonzero(weights > 0).flatten()
        scale = None if mask.dtype == torch.bool or (weights[index] == 1).all() else weights[index]
        if len(index) == len(weights) and scale is None:
            whole_weight = TensorPart(f"{name}.weight", module, "weight", master=master)
            yield from module_parts(name, module, master) if unit == "row" else [whole_weight]
        elif len(index):
            yield UnitPart(name, module, index, scale, unit=unit, master=master)
