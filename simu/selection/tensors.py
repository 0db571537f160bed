"""Whole tensors: every parameter, or those of attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from simu.models.anatomy import Anatomy
from simu.selection.parts import Part, is_low


class TensorPart:
    """One whole tensor, trained in place or through a float32 master.

    With a master, each backward's gradient is added to the master's and freed, and the model's tensor follows the
    master before the module runs next.
    """

    def __init__(self, name: str, module: nn.Module, attribute: str, *, master: bool) -> None:
        self.names: tuple[str, ...] = (name,)
        self.module, self.attribute = module, attribute
        tensor = self._tensor.requires_grad_(True)
        self.master = nn.Parameter(tensor.detach().float()) if master and is_low(tensor) else None
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

    def merged(self) -> Iterator[tuple[str, Tensor]]:
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


def attention_parts(parts: Anatomy, master: bool) -> Iterator[Part]:
    for layer in parts.attention:
        for name, module in layer:
            yield from module_parts(name, module, master)


def module_parts(name: str, module: nn.Module, master: bool) -> Iterator[Part]:
    for attribute, _ in module.named_parameters(recurse=False):
        yield TensorPart(f"{name}.{attribute}", module, attribute, master=master)


def owners(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(qualified name, module, attribute) of every parameter, once each (tied ones by their first name)."""
    for name, _ in list(model.named_parameters()):
        path, _, attribute = name.rpartition(".")
        yield name, model.get_submodule(path), attribute
