"""Where a model comes from: built from a config with a tokenizer trained in process, the hub, or a local folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from simu.fields import KNOB, Place, PositiveShare, Rate, Seed, Weight, above, between, component, knobs, narrow
from simu.models.chat import end_with_turn, laid_out
from simu.models.content import content
from simu.models.folder import (
    LAYERS,
    check_decoder,
    check_files,
    check_folder,
    load_tokenizer,
    load_weights,
    one_line,
    read_config,
    skeleton,
)
from simu.models.packed import Adapter, Gguf, packed
from simu.models.tokenizers import check_tokenizer
from simu.store.hub import check_model, snapshot
from simu.store.packages import in_package
from simu.types import Layout, NeuronUnit, Template, UserError, require, shown

transformers_logging.disable_progress_bar()  # one bar a stage, ours, not one a file

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]
Shape = dict[str, bool | Annotated[int, between(0, 2**31)] | Annotated[float, between(0, 1e12)] | str | None]
"""A transformers config: field → value."""


@component
class FineTune:
    """How a target is taught its rows when no finished one is published. AdamW, linear fall of the rate."""

    lr: Rate
    batch_size: Annotated[int, between(1, 65536)]
    """Rows a step."""
    max_epochs: Annotated[int, between(1, 100_000)]
    memorised: PositiveShare
    """Stop once this share of rows is reproduced token for token under teacher forcing (so greedily, too)."""
    check_every: Annotated[int, between(1, 100_000)]
    """Epochs between two looks at that share."""
    weight_decay: Weight
    skip: bool = False
    """The model knows the rows already: it is taught nothing."""
    plant: Annotated[float, above(0, 0.5)] | None = None
    """Teach the forget rows to this share of each layer's units alone (`simu.stages.planting`); None: to all."""
    plant_unit: NeuronUnit = "row"
    """What is planted in."""
    plant_seed: Seed = 0
    """Of the draw of units and decoy rows."""
    plant_epochs: Annotated[int, between(1, 100_000)] = 400
    """Passes over the forget rows at most; looked at every `check_every`, until `memorised` tokens are."""

    def __post_init__(self) -> None:
        require(not (self.skip and self.plant), "plant", self.plant, "null where target.skip=true teaches nothing")


@component
class FromConfig:
    """A small decoder with random weights and a byte-level BPE tokenizer trained on the data set's own text.

    It knows nothing but what the target stage teaches it: the way to try everything on a laptop, offline.
    """

    name: Annotated[str, KNOB]
    model_type: str
    """A transformers architecture: llama, olmo, mistral, qwen2 …"""
    hidden_size: Annotated[int, between(1, 65536)]
    intermediate_size: Annotated[int, between(1, 2**20)]
    layers: Annotated[int, between(1, LAYERS)]
    heads: Annotated[int, between(1, 4096)]
    kv_heads: Annotated[int, between(1, 4096)]
    vocab_size: Annotated[int, between(300, 2**22)]
    """At most; the tokenizer decides. 256 bytes and special tokens at least."""
    max_length: Annotated[int, between(2, 2**24)]
    """Tokens of prompt, answer and EOS together; longer rows are cut, with a warning. One is read, one predicted."""
    dtype: Annotated[Literal["float32", "bfloat16", "float64"], KNOB]
    """What `precision.weights` takes for its own; nothing here reads it."""
    portable: Annotated[bool, KNOB] = False
    """What `precision.portable` takes for its own; nothing here reads it."""
    choice_scorer: Annotated[str, KNOB]
    """What conf/evaluator/tofu.yaml takes for its own; nothing here reads it."""
    template: Template
    target: FineTune

    def __post_init__(self) -> None:
        taught = "false: a model built from its config knows nothing but what it is taught"
        require(not self.target.skip, "target.skip", True, taught)
        require(self.hidden_size % self.heads == 0, "heads", self.heads, f"a divisor of hidden_size={self.hidden_size}")
        size = self.hidden_size // self.heads
        require(size % 2 == 0, "heads", self.heads, f"one that gives heads of an even size, not {size} (rotary halves)")
        require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of heads={self.heads}")

    @property
    def learns_background(self) -> bool:
        """It was never pre-trained: the background rows stand in for that."""
        return True

    def published(self, data: str) -> None:
        """No finished target is published for a model made here."""
        return

    def packed(self, data: str) -> None:
        """There is nothing to unpack."""
        return

    def unpacked(self, data: str, folder: Path) -> FromConfig:
        """As it is: `packed` names nothing."""
        return self

    def layout(self, data: str) -> Template:
        """The template, as it is written."""
        return self.template

    def check(self, data: str) -> None:
        """Nothing to reach, but an architecture that is no dense decoder is said."""
        check_decoder(self._config(vocab_size=self.vocab_size), f"model.model_type={self.model_type}")

    def identity(self, data: str) -> dict[str, Any]:
        """What the untrained model depends on, for the cache."""
        apart = {"target", "template"} | knobs(type(self))
        return {k: v for k, v in vars(self).items() if k not in apart}

    def load(self, data: str, texts: Iterable[str], seed: int, dtype: torch.dtype) -> Loaded:
        """A freshly initialised model and its tokenizer; `texts` is what the tokenizer learns its merges from."""
        tokenizer = train_tokenizer(texts, self.vocab_size)
        special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        config = self._config(vocab_size=len(tokenizer), **special)
        torch.manual_seed(narrow(seed))
        return AutoModelForCausalLM.from_config(config).to(dtype).eval(), tokenizer

    def skeleton(self, data: str, dtype: torch.dtype) -> PreTrainedModel:
        """The model without weights, on the meta device."""
        config = self._config(vocab_size=self.vocab_size)
        return skeleton(config, dtype, f"model.model_type={self.model_type}")

    def _config(self, **more: Any) -> PretrainedConfig:
        try:
            return AutoConfig.for_model(
                self.model_type,
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.kv_heads,
                max_position_embeddings=self.max_length,
                **more,
            )
        except Exception as error:  # of a dozen kinds
            raise UserError(f"model.model_type={shown(self.model_type)}: {one_line(error)}") from error


@component
class Pretrained:
    """A model from the hub, a folder or an installed package, and the published targets that were made from it.

    Safetensors or GGUF only, no remote code. A target is a checkpoint that has memorised a data set. What is no plain
    folder of weights (a GGUF file, an adapter) is `packed`: a stage of its own turns it into one.
    """

    name: Annotated[str, KNOB]
    path: Place | None
    """Of the base model: hub id, folder, GGUF file, adapter folder, or `package:DISTRIBUTION/FILE` for what an
    installed package brings; also of a ready target, with `is_target`. null: the command line has to say."""
    base: Place | None = None
    """Of an adapter: the same kinds, where adapter_config.json does not name what is to be had here."""
    is_target: bool
    """`path` has memorised the data set already: no fine-tuning, as with `target.skip`."""
    targets: dict[str, Place]
    """Published targets: data set name → hub id or folder."""
    tokenizer: Place | None
    """Hub id or folder where it is not beside the weights."""
    revision: str | None
    """Branch, tag or commit of the hub repository that the weights are from, for all that is read of it: weights,
    config, and the tokenizer unless `tokenizer` names another repository."""
    shape: Annotated[Shape, KNOB]
    """The architecture, as transformers' config has it: a dry run needs neither the hub nor weights. {}: ask it."""
    max_length: Annotated[int, between(2, 2**24)]
    template: Layout
    target: FineTune
    dtype: Annotated[Literal["float32", "bfloat16", "float64"], KNOB]
    """For `precision.weights`, as of FromConfig."""
    portable: Annotated[bool, KNOB] = False
    """For `precision.portable`, as of FromConfig."""
    choice_scorer: Annotated[str, KNOB]
    """For conf/evaluator/tofu.yaml, as of FromConfig."""

    @property
    def learns_background(self) -> bool:
        """It knows of the world already, and what it knows is measured."""
        return False

    def published(self, data: str) -> str | None:
        """The ready target for this data set, or None: then the target stage fine-tunes the base model."""
        return self._path() if self.is_target or self.target.skip else self.targets.get(data)

    def check(self, data: str) -> None:
        """Before any stage: raises UserError where weights or tokenizer are out of reach, or do not belong together."""
        if (held := self.packed(data)) is not None:
            held.check()
            return
        self._reach(data)
        source, tokenizer, key = self.source(data), self._tokenizer(data), self._key(data)
        beside = key if tokenizer == source else "model.tokenizer"
        for place, named in ((source, key), (tokenizer, beside)):
            if (folder := snapshot(place, self._revision(place, data))) is not None:
                check_files(folder, named)
        config = read_config(source, key, self._revision(source, data))
        check_decoder(config, f"{key}={source}")
        made = load_tokenizer(tokenizer, beside, self._revision(tokenizer, data))
        check_tokenizer(made, config, f"{beside}={tokenizer}")
        laid_out(self.template, made, f"{beside}={tokenizer}")
        if (folder := snapshot(source, self._revision(source, data))) is not None:
            check_folder(folder, key)

    def packed(self, data: str) -> Gguf | Adapter | None:
        """What the weights for `data` have to be unpacked from first; None: they are read where they lie."""
        return packed(self._named(data), self._key(data), self.base)

    def unpacked(self, data: str, folder: Path) -> Pretrained:
        """This model with its weights for `data` in a plain folder."""
        place = str(folder)
        if self._key(data) == "model.path":
            return replace(self, path=place, base=None)
        return replace(self, targets={**self.targets, data: place}, base=None)

    def layout(self, data: str) -> Template:
        """The template; `chat` and `auto` are read off the tokenizer."""
        if isinstance(self.template, Template):
            return self.template
        tokenizer = self._tokenizer(data)
        key = self._key(data) if self.tokenizer is None else "model.tokenizer"
        made = load_tokenizer(tokenizer, key, self._revision(tokenizer, data))
        return laid_out(self.template, made, f"{key}={tokenizer}")

    def _reach(self, data: str) -> None:
        source, tokenizer = self.source(data), self._tokenizer(data)
        check_model(source, self._key(data), self._revision(source, data))
        if tokenizer != source:
            check_model(tokenizer, "model.tokenizer", self._revision(tokenizer, data))

    def _path(self) -> str:
        if self.path is None:
            raise UserError("model.path: missing; allowed is a model folder, a hub id or a GGUF file: model.path=…")
        return self.path

    def _named(self, data: str) -> str:
        """Where the weights are, as it was typed."""
        return self.published(data) or self._path()

    def source(self, data: str) -> str:
        """Folder or hub id of the weights; of an installed package the folder that it is in."""
        return in_package(self._named(data), self._key(data))

    def _key(self, data: str) -> str:
        """What the user typed `source` under."""
        known = not (self.is_target or self.target.skip) and data in self.targets
        return f"model.targets.{data}" if known else "model.path"

    def _tokenizer(self, data: str) -> str:
        return self.source(data) if self.tokenizer is None else in_package(self.tokenizer, "model.tokenizer")

    def _revision(self, repository: str, data: str) -> str | None:
        """`revision`, for the repository that it names; a folder has none, and another repository has its own."""
        return None if Path(repository).is_dir() or repository != self.source(data) else self.revision

    def identity(self, data: str) -> dict[str, Any]:
        """What weights and tokens depend on, for the cache: of a local folder its content, else hub id and commit."""
        source, tokenizer = self.source(data), self._tokenizer(data)
        own: dict[str, Any] = {"layout": self.template} if isinstance(self.template, str) else {}  # what ends an answer
        held = self.packed(data)
        own |= {"source": held.identity() if held else content(source, self._revision(source, data))}
        if held and tokenizer == source:
            return own
        return own | {"tokenizer": content(tokenizer, self._revision(tokenizer, data), weights=False)}

    def skeleton(self, data: str, dtype: torch.dtype) -> PreTrainedModel:
        """The model without weights, on the meta device; its config comes from `path` if a folder, else `shape`."""
        key = self._key(data)
        if self.shape and not Path(self._named(data)).exists():
            return skeleton(self._shaped(), dtype, "model.shape")
        if (held := self.packed(data)) is not None:
            held.check()
            return skeleton(held.config(), dtype, held.where)
        source = self.source(data)
        revision = self._revision(source, data)
        check_model(source, key, revision)
        return skeleton(read_config(source, key, revision), dtype, f"{key}={source}")

    def _shaped(self) -> PretrainedConfig:
        try:
            return AutoConfig.for_model(**dict[str, Any](self.shape))
        except Exception as error:  # of a dozen kinds
            raise UserError(f"model.shape={shown(dict(self.shape))}: {one_line(error)}") from error

    def load(self, data: str, texts: Iterable[str], seed: int, dtype: torch.dtype) -> Loaded:
        """The published target for `data`, else the base model, and the tokenizer."""
        self._reach(data)
        source, tokenizer = self.source(data), self._tokenizer(data)
        revision = self._revision(source, data)
        model, made = load_folder(source, dtype, tokenizer=tokenizer, revision=revision, key=self._key(data))
        if isinstance(self.template, str):
            end_with_turn(made)
        return model, made


def load_folder(
    source: str | Path,
    dtype: torch.dtype,
    tokenizer: Place | None = None,
    revision: str | None = None,
    key: str = "model.path",
) -> Loaded:
    """A causal language model and tokenizer from a folder or hub id. Raises UserError where either cannot be had.

    `revision` is of `source`, and of the tokenizer where that is in the same repository. `key` is what the user typed
    `source` under.
    """
    beside = tokenizer is None or tokenizer == str(source)
    made = load_tokenizer(
        str(source) if beside else str(tokenizer),
        key if beside else "model.tokenizer",
        revision if beside else None,
    )
    model = load_weights(str(source), dtype, key, revision)
    check_tokenizer(made, model.config, f"model.path={source}" if beside else f"model.tokenizer={tokenizer}")
    if made.pad_token_id is None:
        made.pad_token = made.eos_token  # padding is masked by position, so this cannot hide a real EOS
    return model, made


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with BOS, EOS and PAD, deterministic in `texts`."""
    special = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def save_folder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A plain Hugging Face folder: safetensors, config and tokenizer."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def texts_of(pairs: Sequence[tuple[str, str]], template: Template) -> list[str]:
    """What a from-config tokenizer is trained on: each row as the model will read it."""
    return [template.render(prompt) + template.separator + answer for prompt, answer in pairs]
