"""The contract of each slot: what an option's component must have. A component needs no base class to keep it.

`config.build` refuses a component that lacks a member named here, or whose `__call__` takes other arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from simu.types import (
    Batch,
    Evaluation,
    Example,
    Layout,
    Loss,
    NeuronMask,
    NeuronScores,
    NeuronUnit,
    Scores,
    Splits,
    Subject,
    Template,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from simu.models.reference import Reference
    from simu.robustness.victim import Victim

Unit = Literal["token", "later_token", "row"]
Answers = Literal["original", "alternative", "both"]


class Model(Protocol):
    """Where a model comes from, and how a target is made of it."""

    @property
    def name(self) -> str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def template(self) -> Layout: ...
    @property
    def target(self) -> Any: ...

    def published(self, data: str) -> str | None:
        """The ready target for a data set; None: the target stage teaches one."""
        ...

    @property
    def learns_background(self) -> bool:
        """Whether it is taught the background rows too: a model built from its config, without any pre-training."""
        ...

    def layout(self, data: str) -> Template:
        """How rows become text; what `chat` means is read off the tokenizer."""
        ...

    def packed(self, data: str) -> Any:
        """What the weights have to be unpacked from before they can be read (`simu.models.packed`); None: nothing."""
        ...

    def unpacked(self, data: str, folder: Path) -> Model:
        """The same model with these weights in a plain folder."""
        ...

    def check(self, data: str) -> None: ...
    def identity(self, data: str) -> dict[str, Any]: ...
    def skeleton(self, data: str, dtype: torch.dtype) -> PreTrainedModel: ...
    def load(
        self, data: str, texts: Iterable[str], seed: int, dtype: torch.dtype
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]: ...


class Data(Protocol):
    """A data set."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def forget(self) -> Any: ...
    @property
    def overlap(self) -> Literal["refuse", "allow"]: ...

    def __call__(self) -> Splits: ...


class Attribution(Protocol):
    """Scores each neuron by what the answers of some rows rest on."""

    reads_other: ClassVar[bool]
    """Whether it compares with the other side: a sample of the rows to keep for the rows to forget, and for that sample
    the rows to forget. `against` then holds their batches; others are given none."""

    @property
    def m(self) -> int: ...
    @property
    def unit(self) -> NeuronUnit:
        """What is scored, and hence what masks are of and selections train."""
        ...

    @property
    def batch_size(self) -> int: ...
    @property
    def tokens(self) -> Literal["answer", "template"]: ...

    def __call__(
        self,
        model: nn.Module,
        batches: Iterable[Mapping[str, Tensor]],
        *,
        against: Iterable[Mapping[str, Tensor]] | None = None,
        checkpoint: str | Path | None = None,
    ) -> NeuronScores: ...


@runtime_checkable
class WithCompleteness(Protocol):
    """An attribution that also knows what a layer's scores should add up to, and how far they are from it."""

    def with_completeness(
        self,
        model: nn.Module,
        batches: Iterable[Mapping[str, Tensor]],
        *,
        checkpoint: str | Path | None = None,
    ) -> tuple[NeuronScores, Tensor | None]: ...


class Mask(Protocol):
    """Chooses neurons: a pure function of scores."""

    needs: ClassVar[frozenset[str]]
    """Of {"forget", "retain"}: the scores that it reads; others are None."""

    def __call__(self, forget: Scores | None, retain: Scores | None, shape: tuple[int, int]) -> NeuronMask: ...


@runtime_checkable
class OfPlanted(Protocol):
    """A mask that is given, as forget scores, 1 for each planted unit of the target and 0 for the others."""

    reads_planted: ClassVar[bool]


@runtime_checkable
class WithThreshold(Protocol):
    """A mask that knows a threshold t: a share of a layer's largest score, to be exceeded."""

    @property
    def t(self) -> float: ...


class LossTerm(Protocol):
    """One term of the objective, minimised as it stands (signs included)."""

    unit: ClassVar[Unit]
    """What `Loss.count` counts: labelled tokens, those after the first of each row, or rows."""
    needs_reference: ClassVar[bool]
    """Whether it compares with the untouched model; then it has `remember`, too (see `simu.models.reference`)."""

    def __call__(self, model: nn.Module, batch: Batch, reference: Reference | None = None) -> Loss: ...


class ForgetLoss(LossTerm, Protocol):
    """What is lowered on the rows to forget."""

    answers: ClassVar[Answers]
    """Whether a batch holds the answers to forget, alternatives ("I don't know") in their place, or first all of the
    former and then, in the same order, all of the latter ("both": 2·B rows that count as B)."""


@runtime_checkable
class OwnAlternatives(Protocol):
    """A forget loss whose alternatives are other answers of the target itself, not "I don't know"."""

    @property
    def alternatives(self) -> int:
        """Of each row."""
        ...

    @property
    def max_new_tokens(self) -> int: ...


class RetainLoss(LossTerm, Protocol):
    """What is lowered on the rows to keep."""

    reads_rows: ClassVar[bool]
    """False: there is no retain side."""


class Objective(Protocol):
    """γ · forget + λ · retain."""

    @property
    def forget(self) -> ForgetLoss: ...
    @property
    def retain(self) -> RetainLoss: ...
    @property
    def forget_weight(self) -> float: ...
    @property
    def retain_weight(self) -> float: ...


@runtime_checkable
class MovesRetainWeight(Protocol):
    """An objective whose λ is another one after each step."""

    def next_retain_weight(self, weight: float, retain_loss: float, epoch: int) -> float:
        """λ of the step after one that had `weight` and gave `retain_loss`, in `epoch` (from 1)."""
        ...


class Optimizer(Protocol):
    """Builds a torch.optim.Optimizer."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer: ...


class Perturbation(Protocol):
    """Where the forget gradient is taken."""

    @property
    def passes(self) -> int:
        """How often a step asks for it."""
        ...

    def __call__(
        self, gradient: Callable[[float], float], parameters: Sequence[nn.Parameter], key: Sequence[int]
    ) -> float:
        """Leave it in `.grad` of the parameters, which end as they were. `gradient(scale)` adds `scale` times the
        gradient at the weights as they stand, and tells the loss; `key` decides what is random. Returns the loss."""
        ...


class Attack(Protocol):
    """A way to bring back what was unlearned."""

    def __call__(self, victim: Victim) -> None:
        """Do it to copies of the model (`victim.load`), and have each outcome measured (`victim.evaluate`, `note`)."""
        ...


@runtime_checkable
class ReadsRows(Protocol):
    """An attack that teaches rows of the data set."""

    @property
    def rows(self) -> str: ...

    def taught(
        self, forget: Sequence[Example], retain: Sequence[Example], evaluation: Mapping[str, Sequence[Example]]
    ) -> Sequence[Example]:
        """Those that it would draw from."""
        ...


class Robustness(Protocol):
    """Which attacks a run makes."""

    @property
    def attacks(self) -> dict[str, Attack]: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def rows(self) -> int: ...


class Selection(Protocol):
    """Which parameters train."""

    reads_mask: ClassVar[bool]

    def __call__(
        self, model: nn.Module, mask: NeuronMask | None = None, *, unit: NeuronUnit = "row", master: bool = True
    ) -> Any: ...


class Training(Protocol):
    """How long, in what batches and at what rate."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...

    def steps(self, n_forget: int) -> int: ...


class Evaluator(Protocol):
    """Scores one model on the evaluation rows."""

    benchmark: ClassVar[str]
    """The benchmark's name, as reports head its tables: 'qa', 'lume'."""

    def check(self) -> None: ...
    def __call__(self, subject: Subject, splits: Splits, *, reference: object = None) -> Evaluation: ...


class Tracker(Protocol):
    """Where a run is watched."""

    def open(self, folder: Path, config: Mapping[str, Any], labels: Mapping[str, str]) -> Any: ...
