"""Sophia: sign-like momentum steps, clipped by a diagonal curvature estimate (arXiv 2305.14342).

Four presets cover what is called Sophia in unlearning; conf/optimizer/ has one yaml each:
`simu` (arXiv 2510.07822, Eq. 3–4), `soul` (OPTML-Group/SOUL), `literal` (γ = 0.04), `sophia_g` (Liuhong99/Sophia).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from simu.fields import Decay, Number, Positive, Rate, above, between, component
from simu.optim.groups import decay_groups
from simu.types import require

BLOCK_CPU, BLOCK_GPU = 2**18, 2**25
"""Elements updated at a time: temporaries stay in the cache on a CPU, and small beside the model on a GPU."""


class Sophia(torch.optim.Optimizer):
    """Each step, with g the gradient:

        m ← β1·m + (1−β1)·g      H ← β2·H + (1−β2)·g²      θ ← θ·(1 − lr·wd)      θ ← θ − lr·clip(m / d, ±1)

    with d = max(γ·H, ε) (`eps_mode="max"`) or γ·H + ε (`"add"`). `momentum_updates=2` repeats the update of m, as SOUL
    does. With `hessian_interval` k > 0, H is not updated from g but by `update_hessian`, from gradients on labels that
    the model itself samples; `hessian_due` says when (steps 0, k, 2k, …: Algorithm 3 of arXiv 2305.14342):

        if optimizer.hessian_due:
            (sampled_nll(logits, generator) / n).backward()
            optimizer.update_hessian(predictions=n)
            optimizer.zero_grad()

    State has the parameter's dtype and shape: exp_avg (m), hessian (H). The update is elementwise, so it may be sharded
    (DTensor) in any way.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 5e-6,
        betas: tuple[float, float] = (0.9, 0.95),
        gamma: float = 204.8,
        eps: float = 1e-15,
        weight_decay: float = 0.1,
        *,
        eps_mode: Literal["max", "add"] = "max",
        momentum_updates: int = 1,
        hessian_interval: int = 0,
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "eps_mode": eps_mode,
            "momentum_updates": momentum_updates,
            "hessian_interval": hessian_interval,
        }
        BuildSophia(**settings)  # type: ignore[arg-type]  # says what is out of range
        defaults = {**settings, "steps": 0}
        self._clipped: tuple[Tensor | int, int] = (0, 0)
        super().__init__(params, defaults)

    @property
    def hessian_due(self) -> bool:
        """Whether `update_hessian` is to be called before the next `step`."""
        return any(g["hessian_interval"] and g["steps"] % g["hessian_interval"] == 0 for g in self.param_groups)

    @property
    def clipped_fraction(self) -> float:
        """Share of coordinates that the last step clipped (|m| > d); of this process's shard. 0 before any step."""
        clipped, total = self._clipped
        return float(clipped) / total if total else 0.0

    @torch.no_grad()
    def update_hessian(self, predictions: int) -> None:
        """H ← β2·H + (1−β2)·B·ĝ², ĝ the gradients at hand of the mean loss over B = `predictions` sampled labels.

        The Gauss–Newton–Bartlett estimate is B·ĝ². Official Sophia-G keeps ĝ² and multiplies γ by B in each step: the
        same for a constant B, and right for one that varies.
        """
        for group in self.param_groups:
            beta2 = group["betas"][1]
            for (grads, hessians), _ in self._blocks(group, ("hessian",)):
                torch._foreach_mul_(hessians, beta2)
                torch._foreach_addcmul_(hessians, grads, grads, value=(1 - beta2) * predictions)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        clipped: Tensor | int = 0
        total = 0
        for group in self.param_groups:
            for (grads, params, momenta, hessians), n in self._blocks(group, ("param", "exp_avg", "hessian")):
                clipped = clipped + _update(params, grads, momenta, hessians, group)
                total += n
            group["steps"] += 1
        self._clipped = (clipped, total)
        return loss

    def _blocks(self, group: dict[str, Any], which: tuple[str, ...]) -> Iterator[tuple[tuple[list[Tensor], ...], int]]:
        """Lists of flat pieces, of gradients and of `which`, some BLOCK elements at a time, and their number."""
        lists: list[list[Tensor]] = [[] for _ in range(1 + len(which))]
        size = 0
        for param in group["params"]:
            if param.grad is None:
                continue
            state = self._state(param)
            whole = [_local(param.grad), *(_local(param if w == "param" else state[w]) for w in which)]
            block = BLOCK_GPU if whole[0].is_cuda else BLOCK_CPU
            for pieces in zip(*_split(whole, block), strict=True):
                if size and size + pieces[0].numel() > block:
                    yield tuple(lists), size
                    lists, size = [[] for _ in lists], 0
                for at, piece in zip(lists, pieces, strict=True):
                    at.append(piece)
                size += pieces[0].numel()
        if size:
            yield tuple(lists), size

    def _state(self, param: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        if not state:
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["hessian"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return state


def _update(
    params: list[Tensor], grads: list[Tensor], momenta: list[Tensor], hessians: list[Tensor], group: dict[str, Any]
) -> Tensor | int:
    """The step on lists of tensors, in place; the number of clipped coordinates (on the device: no synchronisation)."""
    beta1, beta2 = group["betas"]
    lr = float(group["lr"])
    for _ in range(group["momentum_updates"]):
        torch._foreach_lerp_(momenta, grads, 1 - beta1)
    if not group["hessian_interval"]:
        torch._foreach_mul_(hessians, beta2)
        torch._foreach_addcmul_(hessians, grads, grads, value=1 - beta2)
    steps = torch._foreach_mul(hessians, group["gamma"])
    if group["eps_mode"] == "max":
        torch._foreach_clamp_min_(steps, group["eps"])
    else:
        torch._foreach_add_(steps, group["eps"])
    steps = torch._foreach_div(momenta, steps)
    clipped = sum(torch.count_nonzero(s.abs() > 1) for s in steps)
    torch._foreach_clamp_min_(steps, -1.0)
    torch._foreach_clamp_max_(steps, 1.0)
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
    torch._foreach_add_(params, steps, alpha=-lr)
    return clipped


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _split(tensors: list[Tensor], block: int) -> list[tuple[Tensor, ...]]:
    """Each tensor as flat pieces of `block` elements that share its memory; whole where one cannot be flattened so."""
    if all(t.is_contiguous() for t in tensors[1:]):
        return [t.reshape(-1).split(block) for t in tensors]  # a gradient is only read, so a copy of it is fine
    return [(t,) for t in tensors]


@component
class BuildSophia:
    """Builds `Sophia` over named parameters; no weight decay on norms and biases."""

    lr: Rate = 5e-6
    """Peak learning rate: each clipped coordinate moves by it."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of m and of H."""
    gamma: Positive = 204.8
    """Scale of H in the denominator; with `hessian_interval`, ρ, as H then holds B·ĝ²."""
    eps: Annotated[float, above(0, 1)] = 1e-15
    """Least denominator."""
    weight_decay: Annotated[float, between(0, 1e3)] = 0.1
    """Decoupled, times lr."""
    eps_mode: Literal["max", "add"] = "max"
    """max(γ·H, ε) or γ·H + ε."""
    momentum_updates: Annotated[int, between(1, 2)] = 1
    """Updates of m a step; 2: SOUL's code."""
    hessian_interval: Number = 0
    """0: H from each gradient; k: from sampled labels, every k steps."""

    def __post_init__(self) -> None:
        require(self.eps_mode in ("max", "add"), "eps_mode", self.eps_mode, "max or add")

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Sophia:
        return Sophia(
            decay_groups(named_parameters, self.weight_decay),
            self.lr,
            self.betas,
            self.gamma,
            self.eps,
            self.weight_decay,
            eps_mode=self.eps_mode,
            momentum_updates=self.momentum_updates,
            hessian_interval=self.hessian_interval,
        )
