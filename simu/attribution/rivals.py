"""Other localisations, on the same units, so that any mask takes them and counts can be equal. Unit k of a layer is row
k of its MLP down-projection or, with `unit=hidden`, column k: what hidden neuron k writes.

g is the gradient of the summed token CE over the rows that are scored, g' that over the rows of the other side (the
retain sample for the forget rows, and the other way round), W[k] the unit's weights; its bias is not read. Scores but
those of `random` are of one pass over the rows, before any training: no source's recomputation in between. A pass is
quick beside the attribution's, so none keeps a checkpoint: one that was killed starts anew and gives the same.

Layers L, U units of K weights each: D of F, or F of D hidden ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Protocol

import torch
from torch import Tensor, nn

from simu.attribution.samples import Batches, Kept, Side, require_against
from simu.attribution.weight_gradients import fisher_information, summed_gradients, unit_weights
from simu.data.batches import Tokens
from simu.fields import KNOB, Positive, Seed, between, component, narrow
from simu.models.anatomy import anatomy
from simu.types import NeuronScores, NeuronUnit

NotRead = Annotated[int, between(1, 4096), KNOB]
"""Of `m`, which is there so that sweeps over it compose: there is no path."""
Rows = Annotated[int, between(1, 65536)]
"""Of a micro-batch as the caller gives them."""


def grad_norm(gradient: Tensor) -> Tensor:
    """‖g[k]‖₂: [U, K] → [U]."""
    return gradient.norm(dim=1)


def snip(gradient: Tensor, weight: Tensor) -> Tensor:
    """Σ_j |g[k, j]·W[k, j]|: [U, K] each → [U]."""
    return (gradient * weight).abs_().sum(dim=1)


def wagle(gradient: Tensor, against: Tensor, weight: Tensor, mu: float) -> Tensor:
    """Σ_j |(W[k, j] − g'[k, j]/μ)·g[k, j]|: [U, K] each → [U]."""
    return (weight - against / mu).mul_(gradient).abs_().sum(dim=1)


def fisher_ratio(fisher: Tensor, against: Tensor, eps: float) -> Tensor:
    """Σ_j F[k, j] / (ε + F'[k, j]): [U, K] each → [U]."""
    return (fisher / (eps + against)).sum(dim=1)


def memflex(gradient: Tensor, against: Tensor, threshold: float) -> Tensor:
    """mean_j |g[k, j]| where cos(g[k], g'[k]) < threshold, else 0: [U, K] each → [U]. A vector of zeros is at right
    angles to any other."""
    sizes = gradient.norm(dim=1).double() * against.norm(dim=1).double()
    cosine = torch.where(sizes > 0, (gradient * against).sum(dim=1).double() / sizes, 0.0)
    return torch.where(cosine < threshold, gradient.abs().mean(dim=1), 0.0)


def of_layers(score: Callable[..., Tensor], *layers: Sequence[Tensor]) -> NeuronScores:
    """`score` of each layer's tensors: float32 [L, U] on the CPU."""
    return torch.stack([score(*tensors).float().cpu() for tensors in zip(*layers, strict=True)])


class Reads(Protocol):
    """What of an attribution says which tokens and units are read."""

    @property
    def tokens(self) -> Tokens: ...
    @property
    def unit(self) -> NeuronUnit: ...


def compared(
    read: Callable[[nn.Module, Batches, Tokens, NeuronUnit], list[Tensor]],
    rival: Reads,
    model: nn.Module,
    batches: Batches,
    against: Side,
) -> tuple[list[Tensor], list[Tensor]]:
    """What is read of the rows and of the other side's, [U, K] a layer. Raises UserError without `against`."""
    other = read(model, require_against(against, type(rival).__name__), rival.tokens, rival.unit)
    return read(model, batches, rival.tokens, rival.unit), other


@component
class GradNorm:
    """‖g[k]‖₂.

    Source: SURE (FailureLLMUnlearning 10131ae), which keeps the modules at or above the 90th percentile and
    looks anew at each step; SalUn (a6e89fd) takes |g| of each weight and keeps half.
    """

    reads_other: ClassVar[bool] = False
    m: NotRead = 1
    batch_size: Rows = 16
    """Rows of a micro-batch as the caller gives them. Changes scores by rounding alone, here and below."""
    tokens: Tokens = "answer"
    unit: NeuronUnit = "row"

    def __call__(self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None) -> Tensor:
        """float32 [L, U]; `against` and `checkpoint` are not read."""
        return of_layers(grad_norm, summed_gradients(model, batches, self.tokens, self.unit))


@component
class Snip:
    """Σ_j |g[k, j]·W[k, j]|: what the loss would lose, to first order, by setting weights to 0.

    Source: the `snip` score of WAGLE's code (31275e8), there of each weight.
    """

    reads_other: ClassVar[bool] = False
    m: NotRead = 1
    unit: NeuronUnit = "row"
    tokens: Tokens = "answer"
    batch_size: Rows = 16

    def __call__(self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None) -> Tensor:
        """As `GradNorm`."""
        return of_layers(snip, summed_gradients(model, batches, self.tokens, self.unit), unit_weights(model, self.unit))


@component
class Wagle:
    """Σ_j |(W[k, j] − g'[k, j]/μ)·g[k, j]|.

    Source: WAGLE (31275e8), there of each weight of all linear layers, with 0.95 of them kept over the
    whole model. μ is that of its configs; its class has 1e-3.
    """

    reads_other: ClassVar[bool] = True
    m: NotRead = 1
    unit: NeuronUnit = "row"
    mu: Positive = 1e-6
    """μ, the assumed curvature of the retain loss: the smaller, the more g' counts beside W."""
    tokens: Tokens = "answer"
    batch_size: Rows = 16

    def __call__(self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None) -> Tensor:
        """float32 [L, U]; `checkpoint` is not read. Raises UserError without `against`."""
        own, other = compared(summed_gradients, self, model, batches, against)
        return of_layers(lambda g, r, w: wagle(g, r, w, self.mu), own, other, unit_weights(model, self.unit))


@component
class FisherRatio:
    """Σ_j F[k, j] / (ε + F'[k, j]), F = Σ n·(∇CE)² / Σ n over rows, ∇CE the gradient of a row's mean CE of n tokens.

    Source: FILA (efficient-llm-unlearning 272484a), where it weighs the factorisation that a LoRA adapter
    begins at, over whole matrices; here it ranks units.
    """

    reads_other: ClassVar[bool] = True
    m: NotRead = 1
    unit: NeuronUnit = "row"
    eps: Positive = 1e-5
    """ε, added to F'."""
    tokens: Tokens = "answer"
    batch_size: Annotated[int, between(1, 65536), KNOB] = 16
    """Not read: each row has a pass of its own, without padding."""

    def __call__(self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None) -> Tensor:
        """As `Wagle`."""
        own, other = compared(fisher_information, self, model, batches, against)
        return of_layers(lambda f, r: fisher_ratio(f, r, self.eps), own, other)


@component
class MemFlex:
    """mean_j |g[k, j]| where cos(g[k], g'[k]) < threshold, else 0.

    Source: MemFlex (KnowUnDo 92aea2b), there of each LoRA tensor, kept where also mean |g| > 6e-4; here of each
    unit, and how many are kept is the mask's matter.
    """

    reads_other: ClassVar[bool] = True
    m: NotRead = 1
    unit: NeuronUnit = "row"
    threshold: Annotated[float, between(-1, 1)] = 0.92
    """Cosine from which on a unit counts as the other side's."""
    tokens: Tokens = "answer"
    batch_size: Rows = 16

    def __call__(self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None) -> Tensor:
        """As `Wagle`."""
        own, other = compared(summed_gradients, self, model, batches, against)
        return of_layers(lambda g, r: memflex(g, r, self.threshold), own, other)


@component
class RandomScores:
    """Uniform in (0, 1), seeded: the control. Forget and retain rows get the same scores, so that `forget_only` and
    `contrastive` make nothing of them; `top` and `dual` do."""

    reads_other: ClassVar[bool] = False
    m: NotRead = 1
    unit: NeuronUnit = "row"
    seed: Seed = 0
    """Of the draw."""
    tokens: Tokens = "answer"
    """Of the samples that are counted; no row is read."""
    batch_size: Annotated[int, between(1, 65536), KNOB] = 16
    """Not read."""

    def __call__(self, model: nn.Module, batches: Batches, *, against: Side = None, checkpoint: Kept = None) -> Tensor:
        """float32 [L, U]; of the model the sizes alone are read."""
        parts = anatomy(model)
        generator = torch.Generator().manual_seed(narrow(self.seed))
        return torch.rand(parts.shape(self.unit), generator=generator).clamp_(min=2.0**-25)  # never 0
