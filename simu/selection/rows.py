"""The selected rows of each down-projection, compact. Shapes: L layers, D d_model, F d_ff, n selected rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from simu.models.anatomy import Anatomy, is_conv1d
from simu.selection.parts import Part, is_low, whole, write
from simu.selection.tensors import module_parts
from simu.types import NeuronMask


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
        dtype = torch.float32 if master and is_low(weight) else weight.dtype
        rows = whole(weight).index_select(1 if self.transposed else 0, index)
        rows = (rows.t() if self.transposed else rows).to(dtype)
        module.register_parameter("selected_rows", nn.Parameter(rows.contiguous()))
        chosen = None if bias is None else nn.Parameter(whole(bias).index_select(0, index).to(dtype))
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
            write(weight, 1 if self.transposed else 0, index, rows.t() if self.transposed else rows)
            if self.bias is not None:
                write(self.module.bias, 0, index, self.bias.to(weight.dtype))  # type: ignore[arg-type]
        self._versions = self._current_versions()

    def merge(self) -> None:
        self.sync()
        del self.module.forward, self.module.selected_rows, self.module.selected_bias, self.module.selected_index

    def scaled(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        if self.scale is not None:
            yield self.rows, self.scale.to(self.rows.dtype).unsqueeze(1)
            if self.bias is not None:
                yield self.bias, self.scale.to(self.bias.dtype)

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        yield from ()


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


def row_parts(parts: Anatomy, mask: NeuronMask, master: bool) -> Iterator[Part]:
    """A layer's selected rows; its whole tensors where every row trains in full; nothing where none does."""
    for name, module, row in zip(parts.down_names, parts.down_projections, mask, strict=True):
        index = torch.nonzero(row > 0).flatten()
        scale = None if mask.dtype == torch.bool or (row[index] == 1).all() else row[index]
        if len(index) == parts.d_model and scale is None:
            yield from module_parts(name, module, master)
        elif len(index):
            yield RowPart(name, module, index, scale, master=master)
