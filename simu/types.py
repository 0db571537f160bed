"""The nouns that every slot shares, and the one error a person can act on. Imports nothing of simu, and no torch: a
mistake on the command line is said before that loads.

Shape letters, used throughout: B rows, T tokens, N labelled tokens, L layers, D d_model, F d_ff, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORE = -100  # the label of a token that is not scored, as torch.nn.functional.cross_entropy has it

NeuronUnit: TypeAlias = Literal["row", "hidden"]
"""What a neuron is: `row` k of the layer's MLP down-projection (an output channel, D of them), or a `hidden` neuron
(F of them): what the down-projection reads, and its column k."""
NeuronScores: TypeAlias = "Tensor"
"""Attribution of each neuron: float32 [L, units], units D or F (`NeuronUnit`)."""
NeuronMask: TypeAlias = "Tensor"
"""Which neurons train: bool [L, units], or float [L, units] in [0, 1] for a soft mask (scales a neuron's update)."""


@dataclass(frozen=True)
class Scores:
    """An attribution as masks read it: sums over samples, and over how many."""

    values: NeuronScores
    """[L, units], summed over next-token samples."""
    n_samples: int
    """Next-token samples |D| that were summed (not rows: answers differ in length)."""
    completeness: Tensor | None = None
    """float64 [L]: how far each layer's scores are from what they should add up to, relative; None: not defined."""
    unit: NeuronUnit = "row"


def called(unit: NeuronUnit) -> str:
    """What neurons are called on a terminal."""
    return "neurons" if unit == "row" else "hidden neurons"


class UserError(ValueError):
    """A mistake that a person can mend: one line that says what, where and what is allowed. Exit status 2."""


class FieldError(ValueError):
    """A field of a component has a value it cannot have. `config.build` prefixes the slot: 'mask.t=1.5: …'."""

    def __init__(self, name: str, value: object, allowed: str):
        super().__init__(f"{name}={shown(value)}: allowed is {allowed}")
        self.name, self.value, self.allowed = name, value, allowed


def shown(value: object) -> str:
    """A value in a message: on one line, and a text of 10,000 letters or a number of 5000 digits is cut."""
    if isinstance(value, int) and abs(value) > 2**256:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # a number that long inside a list
        return f"a {type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise FieldError unless `ok`. For `__post_init__`: require(0 <= t <= 1, "t", t, "0 ≤ t ≤ 1")."""
    if not ok:
        raise FieldError(name, value, allowed)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question and answer (TOFU) or input and output (LUME), without any template."""

    id: str
    """Unique in its data set and stable: 'forget10/17' or LUME's own id."""
    prompt: str
    answer: str
    group: str = ""
    """What the row belongs to: an author (TOFU), a task (LUME)."""
    paraphrased_prompt: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a prompt and an answer become text. The separator is tokenised with the answer, so no token straddles."""

    prompt: str = "{prompt}"
    separator: str = " "

    def __post_init__(self) -> None:
        require("{prompt}" in self.prompt, "prompt", self.prompt, "a text that holds {prompt}")

    def render(self, prompt: str) -> str:
        return self.prompt.replace("{prompt}", prompt)


Layout: TypeAlias = Template | Literal["chat", "auto"]
"""A template, or where it is from: `chat` is the tokenizer's own chat template, `auto` that where there is one."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What a data set offers. Training rows, and evaluation rows by the name that metrics carry ('forget/…')."""

    name: str
    forget: tuple[Example, ...]
    """Rows to unlearn."""
    retain: tuple[Example, ...]
    """Rows to keep, drawn from during unlearning."""
    evaluation: Mapping[str, tuple[Example, ...]]
    """forget, retain, holdout (never trained on), world_facts, real_authors …"""
    background: tuple[Example, ...] = ()
    """Rows that a model built from a config is also taught, standing in for pre-training; never unlearnt on."""
    template: Template | None = None
    """The data set's own template; None: the model's."""


@dataclass(frozen=True)
class Subject:
    """A model under evaluation, and how it is asked."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    max_length: int | None = None
    """Tokens of a row at most; None: the model's own."""
    checkpoint: Path | None = None
    """A folder that keeps finished batches of generation, so that a killed evaluation goes on where it was."""


class Batch(TypedDict):
    """LongTensors [B, T], right-padded. labels[b, t] is input_ids[b, t] where that token is scored, else IGNORE:
    unshifted, as Hugging Face has it (the logits at t - 1 predict it)."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Loss:
    """A sum over `count` units (tokens or rows): the mean over several micro-batches is Σ total / Σ count, exactly."""

    total: Tensor
    count: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluator says of one model."""

    metrics: dict[str, float]
    """Flat: aggregate, forget/exact_match, forget/n, forget/exact_match/ci_low, …/ci_high, mia/min_k, …"""
    rows: list[dict[str, object]] = field(default_factory=list)
    """generations.jsonl: id, split, prompt, answer, generated, scores."""
    warnings: list[str] = field(default_factory=list)
    """What a reader of the figures must know, one line each."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Number formats. float64 is for checks."""

    weights: Literal["float32", "bfloat16", "float64"]
    """What the model's weights are held and multiplied in."""
    master: bool
    """Keep float32 masters and moments of what trains when the weights are bfloat16."""
    tf32: bool
    """Let CUDA matrix products of float32 use TF32."""
    portable: bool = False
    """On a CPU: one thread and no wider instructions than AVX2 (`simu.portable`)."""

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[self.weights]
