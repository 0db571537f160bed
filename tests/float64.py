"""Models that are float64 throughout. `.double()` alone is not enough: transformers' norms, rotary embeddings and eager
softmax compute in float32 whatever the model's type, so two ways to the same number differ by 1e-8 and more.

    from float64 import true_float64        # tests/ is on pytest's path
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from transformers import PreTrainedModel

M = TypeVar("M", bound=nn.Module)


def true_float64(model: M) -> M:
    """`model` in place, in float64, with nothing inside of it computed in float32; in eval mode. Copies stay so."""
    for module in model.double().eval().modules():
        if type(module).__module__.startswith("transformers.") and not isinstance(module, PreTrainedModel):
            module.__class__ = widened(type(module))
    return model


class Widened(TorchFunctionMode):
    """Whoever asks for float32 gets float64."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args, kwargs = tree_map(lambda x: torch.float64 if x is torch.float32 else x, (args, kwargs or {}))
        return function(*args, **kwargs)


@cache
def widened(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the same name, so that a model can be copied, whose forward runs under `Widened`."""

    @wraps(cls.forward)  # whoever asks for its arguments is told
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Widened():
            return cls.forward(self, *args, **kwargs)

    return type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})


@contextmanager
def watching_float32() -> Iterator[list[str]]:
    """In this context the list receives each operation that makes a float32 tensor."""
    found: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            out = function(*args, **(kwargs or {}))
            found.extend(
                str(function) for t in tree_iter(out) if isinstance(t, torch.Tensor) and t.dtype == torch.float32
            )
            return out

    with Watch():
        yield found
