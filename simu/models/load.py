"""Where a model comes from: built from a config with a tokenizer trained in process, the hub, or a local folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from simu.types import Template, UserError, require

transformers_logging.disable_progress_bar()  # one bar a stage, ours, not one a file

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """How a target is taught its rows when no finished one is published. AdamW, linear fall of the rate."""

    lr: float
    batch_size: int
    """Rows a step."""
    max_epochs: int
    memorised: float
    """Stop once this share of rows is reproduced token for token under teacher forcing (so greedily, too)."""
    check_every: int
    """Epochs between two looks at that share."""
    weight_decay: float

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "a number > 0")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a whole number ≥ 1")
        require(self.max_epochs >= 1, "max_epochs", self.max_epochs, "a whole number ≥ 1")
        require(0 < self.memorised <= 1, "memorised", self.memorised, "0 < share ≤ 1")
        require(self.check_every >= 1, "check_every", self.check_every, "a whole number ≥ 1")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "a number ≥ 0")


@dataclass(frozen=True, kw_only=True)
class FromConfig:
    """A small decoder with random weights and a byte-level BPE tokenizer trained on the data set's own text.

    It knows nothing but what the target stage teaches it: the way to try everything on a laptop, offline.
    """

    name: str
    model_type: str
    """A transformers architecture: llama, olmo, mistral, qwen2 …"""
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    """At most; the tokenizer decides."""
    max_length: int
    """Tokens of prompt, answer and EOS together; longer rows are cut, with a warning."""
    dtype: Literal["float32", "bfloat16", "float64"]
    choice_scorer: str
    """What conf/evaluator/tofu.yaml takes for its own; nothing here reads it."""
    template: Template
    target: FineTune

    def __post_init__(self) -> None:
        for field in ("hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "max_length"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "a whole number ≥ 1")
        require(self.vocab_size >= 300, "vocab_size", self.vocab_size, "a whole number ≥ 300 (256 bytes and merges)")
        require(self.hidden_size % self.heads == 0, "heads", self.heads, f"a divisor of hidden_size={self.hidden_size}")
        require(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"a divisor of heads={self.heads}")

    def published(self, data: str) -> None:
        """No finished target is published for a model made here."""
        return

    def check(self, data: str) -> None:
        """Nothing to reach: the model is made here."""

    def identity(self, data: str) -> dict[str, Any]:
        """What the untrained model depends on, for the cache."""
        return {k: v for k, v in vars(self).items() if k not in ("target", "template", "name", "choice_scorer")}

    def load(self, data: str, texts: Iterable[str], seed: int, dtype: torch.dtype) -> Loaded:
        """A freshly initialised model and its tokenizer; `texts` is what the tokenizer learns its merges from."""
        tokenizer = train_tokenizer(texts, self.vocab_size)
        special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        config = self._config(vocab_size=len(tokenizer), **special)
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).to(dtype).eval(), tokenizer

    def skeleton(self, data: str, dtype: torch.dtype) -> PreTrainedModel:
        """The model without weights, on the meta device."""
        return _skeleton(self._config(vocab_size=self.vocab_size), dtype)

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
        except (ValueError, KeyError) as error:
            raise UserError(f"model.model_type={self.model_type}: {' '.join(str(error).split())[:200]}") from error


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model from the hub or a local folder, and the published targets that were made from it.

    Safetensors only, no remote code. A target is a checkpoint that has memorised a data set.
    """

    name: str
    path: str
    """Hub id or local folder of the base model; also of a ready target, with `is_target`."""
    is_target: bool
    """`path` has memorised the data set already: no fine-tuning."""
    targets: dict[str, str]
    """Published targets: data set name → hub id or folder."""
    tokenizer: str | None
    """Hub id or folder where it is not beside the weights."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    shape: dict[str, Any]
    """The architecture, as transformers' config has it: a dry run needs neither the hub nor weights. {}: ask it."""
    max_length: int
    dtype: Literal["float32", "bfloat16", "float64"]
    choice_scorer: str
    """What conf/evaluator/tofu.yaml takes for its own; nothing here reads it."""
    template: Template
    target: FineTune

    def __post_init__(self) -> None:
        require(self.max_length >= 1, "max_length", self.max_length, "a whole number ≥ 1")

    def published(self, data: str) -> str | None:
        """The ready target for this data set, or None: then the target stage fine-tunes the base model."""
        return self.path if self.is_target else self.targets.get(data)

    def check(self, data: str) -> None:
        """Before any stage: raises UserError where the weights or the tokenizer are out of reach."""
        preflight(self.source(data), "model.path")
        if self.tokenizer:
            preflight(self.tokenizer, "model.tokenizer")

    def source(self, data: str) -> str:
        return self.published(data) or self.path

    def identity(self, data: str) -> dict[str, Any]:
        """What the weights depend on, for the cache: bytes of a local folder, or hub id and revision."""
        source = self.source(data)
        where: dict[str, Any] = {"source": source, "revision": self.revision, "tokenizer": self.tokenizer}
        if Path(source).is_dir():
            where["source"] = folder_digest(Path(source))
        return where | {"dtype": self.dtype}

    def skeleton(self, data: str, dtype: torch.dtype) -> PreTrainedModel:
        """The model without weights, on the meta device; its config comes from `path` if a folder, else `shape`."""
        source = self.source(data)
        if self.shape and not Path(source).is_dir():
            return _skeleton(AutoConfig.for_model(**self.shape), dtype)
        preflight(source, "model.path")
        return _skeleton(AutoConfig.from_pretrained(source, trust_remote_code=False), dtype)

    def load(self, data: str, texts: Iterable[str], seed: int, dtype: torch.dtype) -> Loaded:
        """The published target for `data`, else the base model, and the tokenizer."""
        self.check(data)
        source = self.source(data)
        revision = None if Path(source).is_dir() else self.revision
        return load_folder(source, dtype, tokenizer=self.tokenizer, revision=revision)


def _skeleton(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def load_folder(
    source: str | Path, dtype: torch.dtype, tokenizer: str | None = None, revision: str | None = None
) -> Loaded:
    """A causal language model and tokenizer from a folder or hub id. Raises UserError where weights are missing."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        made = AutoTokenizer.from_pretrained(tokenizer or source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={source}: cannot be loaded ({' '.join(str(error).split())[:240]})") from error
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"model.path={source}: {len(missing)} weights are missing, the first is {missing[0]}")
    if made.pad_token_id is None:
        made.pad_token = made.eos_token  # padding is masked by position, so this cannot hide a real EOS
    return model.eval(), made


def preflight(source: str, key: str) -> None:
    """Fail within seconds, in one line, where a hub id cannot be reached (the hub client itself takes minutes)."""
    if Path(source).exists():
        if not (Path(source) / "config.json").is_file() and not (Path(source) / "tokenizer_config.json").is_file():
            raise UserError(f"{key}={source}: no config.json there; allowed is a Hugging Face model folder or a hub id")
        return
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise UserError(f"{key}={source}: no such folder; allowed is a Hugging Face model folder or a hub id")
    if any(isinstance(try_to_load_from_cache(source, f), str) for f in ("config.json", "tokenizer_config.json")):
        return
    instead = f"pass a local folder ({key}=/path/to/folder), or HF_TOKEN for a gated model"
    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE") == "1":
        raise UserError(f"{key}={source}: not in the local hub cache and HF_HUB_OFFLINE=1; {instead}")
    try:
        HfApi().model_info(source, timeout=5)
    except Exception as error:  # the client raises a dozen kinds; each means the same to the user
        raise UserError(f"{key}={source}: the hub does not serve it ({type(error).__name__}); {instead}") from error


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files that make a model."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".model", ".txt")):
        with path.open("rb") as f:
            total.update(f"{path.name}\0{hashlib.file_digest(f, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


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
