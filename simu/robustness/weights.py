"""Attacks on the weights without any training: fewer bits, fewer numbers. Both may bring back what small steps hid."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from simu.fields import Count, Share, component
from simu.models.anatomy import anatomy
from simu.robustness.victim import Victim
from simu.types import require

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 levels of NormalFloat4 (Dettmers et al. 2023, arXiv 2305.14314), times a group's largest magnitude."""
Grid = Literal["int8", "nf4"]


@component
class Quantize:
    """Round each linear layer's weights to the nearest of a grid, group by group: `ATTACK/GRID/…`.

    `int8`: 255 even levels (symmetric), `nf4`: NormalFloat4; both times the group's largest magnitude. Written with
    torch: what a library's kernels do is not measured. Source: FailureLLMUnlearning (arXiv 2410.16454).
    """

    grids: tuple[Grid, ...] = ("int8", "nf4")
    """8 and 4 bits."""
    group: Count = 64
    """Neighbouring weights of a row that share a scale."""

    @property
    def work(self) -> tuple[int, int]:
        """Evaluations, and rows trained on."""
        return len(self.grids), 0

    def __post_init__(self) -> None:
        require(bool(self.grids) and set(self.grids) <= {"int8", "nf4"}, "grids", self.grids, "a list of int8, nf4")

    def __call__(self, victim: Victim) -> None:
        for grid in self.grids:
            model, tokenizer = victim.load()
            for weight in linear_weights(model):
                weight.data.copy_(rounded(weight.data, grid, self.group))
            victim.evaluate(grid, model, tokenizer)


@component
class Prune:
    """Set the smallest magnitudes of each linear layer to zero: `ATTACK/PERCENT_percent/…` (Han et al. 2015)."""

    shares: tuple[Share, ...] = (0.1, 0.3, 0.5)
    """Of each layer's weights."""

    @property
    def work(self) -> tuple[int, int]:
        """Evaluations, and rows trained on."""
        return len(self.shares), 0

    def __call__(self, victim: Victim) -> None:
        for share in self.shares:
            model, tokenizer = victim.load()
            for weight in linear_weights(model):
                weight.data.copy_(pruned(weight.data, share))
            victim.evaluate(f"{100 * share:g}_percent".replace(".", "_"), model, tokenizer)


def linear_weights(model: PreTrainedModel) -> list[Tensor]:
    """Weight matrices of the blocks' linear layers, [outputs, inputs]; embeddings and head stay."""
    found: list[Tensor] = []
    for block in anatomy(model).blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                found.append(module.weight)
            elif isinstance(module, Conv1D):
                found.append(module.weight.T)
    return found


def rounded(weight: Tensor, grid: Grid, group: int) -> Tensor:
    """`weight` [N, M] at the nearest levels, each run of `group` along M (the last may be shorter) with its own scale;
    in its dtype. A group of zeros stays."""
    n, m = weight.shape
    whole = torch.nn.functional.pad(weight.float(), (0, -m % group)).reshape(n, -1, group)
    scale = whole.abs().amax(-1, keepdim=True)
    unit = whole / torch.where(scale > 0, scale, 1.0)
    if grid == "int8":
        level = (unit * 127).round() / 127
    else:
        levels = torch.tensor(NF4, device=weight.device)
        level = levels[torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2)]
    return (level * scale).reshape(n, -1)[:, :m].to(weight.dtype)


def pruned(weight: Tensor, share: float) -> Tensor:
    """`weight` with its round(share · numel) smallest magnitudes at zero; the first of equal ones."""
    flat = weight.flatten().clone()
    flat[flat.abs().argsort(stable=True)[: round(share * flat.numel())]] = 0
    return flat.reshape(weight.shape)
