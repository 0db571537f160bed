"""Gradients of the down-projections' weights alone, added up as backward passes make them.

No other weight has a gradient, and what a pass gives for a weight is gone once it is added: beside the sums there is
one layer's gradient at a time. Sums are float32 for models below that.

All come with a neuron a row: L × [U, K], of D rows the F weights each reads by, of F hidden neurons the D it writes by.
Layers L, D d_model, F d_ff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from simu.attribution.engine.capture import precise, undisturbed
from simu.attribution.samples import Batches, count_samples, scored_batches
from simu.data.batches import Tokens
from simu.losses.logprobs import token_log_probs
from simu.models.anatomy import anatomy, by_unit
from simu.models.forward import device_of
from simu.progress import track
from simu.types import NeuronUnit

Add = Callable[[Tensor, Tensor, int], object]
"""(sum, a pass's gradient, its scored tokens): adds the one to the other."""


def unit_weights(model: nn.Module, unit: NeuronUnit) -> list[Tensor]:
    """L × [U, K] views of the down-projections' weights, a neuron a row."""
    return [by_unit(module, module.weight.detach(), unit) for module in anatomy(model).down_projections]  # type: ignore[operator]


def summed_gradients(model: nn.Module, batches: Batches, tokens: Tokens, unit: NeuronUnit = "row") -> list[Tensor]:
    """∂(Σ CE)/∂W over all scored tokens, CE in nats: L × [U, K], a neuron a row, on the model's device.

    The model is left as it was. Raises UserError for rows padded on the left and for a model whose parts are not known.
    """
    scored = scored_batches(batches, tokens)
    return _accumulated(model, scored, lambda total, gradient, _: total.add_(gradient), unit, mean=False)


def fisher_information(model: nn.Module, batches: Batches, tokens: Tokens, unit: NeuronUnit = "row") -> list[Tensor]:
    """F = Σ n·(∂CE/∂W)² / Σ n over rows, CE the mean over the n scored tokens of a row: L × [U, K], a neuron a row.

    Each row has a backward pass of its own, without padding, so it does not matter how rows are batched. A row that
    scores nothing weighs nothing; F is 0 where none scores anything. Raises as `summed_gradients`.
    """

    def add(total: Tensor, gradient: Tensor, n: int) -> None:
        total.add_(gradient.to(total.dtype).square(), alpha=n)

    rows = list(single_rows(scored_batches(batches, tokens)))
    scored = max(1, count_samples(rows))
    return [total.div_(scored) for total in _accumulated(model, rows, add, unit, mean=True)]


def single_rows(batches: Sequence[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Batches of one row each, as long as the row."""
    for batch in batches:
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            yield {name: batch[name][row : row + 1, :length] for name in ("input_ids", "attention_mask", "labels")}


def _accumulated(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], add: Add, unit: NeuronUnit, mean: bool
) -> list[Tensor]:
    """What `add` makes of the gradients of each batch's summed (or `mean`) CE: L × [U, K]."""
    modules, device = anatomy(model).down_projections, device_of(model)
    weights: list[nn.Parameter] = [module.weight for module in modules]  # type: ignore[misc]
    sums = [torch.zeros_like(w, dtype=precise(w.dtype), requires_grad=False) for w in weights]
    n = 0

    def take(layer: int, gradient: Tensor) -> None:
        add(sums[layer], gradient, n)

    with undisturbed(model), torch.enable_grad(), handing_over(weights, take):
        for batch in track(batches, "gradients", unit="batch"):
            moved: Any = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "labels")}
            log_probs, _ = token_log_probs(model, moved)
            if n := len(log_probs):
                (-log_probs.mean() if mean else -log_probs.sum()).backward()
    return [by_unit(module, total, unit) for module, total in zip(modules, sums, strict=True)]


@contextmanager
def handing_over(weights: Sequence[nn.Parameter], take: Callable[[int, Tensor], None]) -> Iterator[None]:
    """In this context a backward pass calls take(i, gradient of weights[i]) once that is there, and keeps none.

    The weights need a gradient meanwhile (`undisturbed` puts that back); a `.grad` of theirs is as it was afterwards.
    """

    def hook_of(i: int) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            assert weight.grad is not None
            take(i, weight.grad)
            weight.grad = None

        return hook

    before, handles = [weight.grad for weight in weights], []
    try:
        for i, weight in enumerate(weights):
            weight.grad = None
            weight.requires_grad_(True)
            handles.append(weight.register_post_accumulate_grad_hook(hook_of(i)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for weight, gradient in zip(weights, before, strict=True):
            weight.grad = gradient
