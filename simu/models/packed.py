"""Weights that are no plain model folder: a GGUF file, an adapter. Each is turned into one, once (simu.stages.weights).

What comes out is the same kind of folder for both: safetensors, config, tokenizer with its chat template.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from simu.models.content import content
from simu.models.folder import (
    check_decoder,
    check_files,
    header,
    load_tokenizer,
    load_weights,
    one_line,
    read_config,
    read_object,
)
from simu.store.files import file_digest
from simu.store.hub import CONFIGS, check_model
from simu.store.packages import distribution_of, installed, is_packaged, located
from simu.types import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Whole: TypeAlias = "tuple[PreTrainedModel, PreTrainedTokenizerBase | None]"
"""A model and its tokenizer, if it came with one."""
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MERGED = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "VERA")
"""Kinds of adapters that can be merged into weights; prompts and prefixes cannot."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What the user typed, and under which key."""

    named: str
    key: str

    @property
    def where(self) -> str:
        return f"{self.key}={self.named}"

    @property
    def modules(self) -> tuple[str, ...]:
        return (type(self).__module__,)


@dataclass(frozen=True, kw_only=True)
class Gguf(Packed):
    """A GGUF file, dequantised by transformers' own reader."""

    file: Path

    def identity(self) -> dict[str, str]:
        """By its bytes, wherever they lie."""
        return {"gguf": file_digest(self.file)}

    def check(self) -> None:
        """Raises UserError for what is no GGUF file, and where the package that reads one is missing. Reads 4 bytes."""
        with self.file.open("rb") as f:
            if (first := f.read(4)) != b"GGUF":
                raise UserError(f"{self.where}: no GGUF file (it begins with {first!r}, not with GGUF)")
        if importlib.util.find_spec("gguf") is None:
            raise UserError(f"{self.where}: reading a GGUF file needs the package gguf; pip install gguf")

    def config(self) -> PretrainedConfig:
        """The architecture, without what says that weights are quantised."""
        config: PretrainedConfig = self._read(AutoConfig)
        return unquantised(config)

    def unpack(self, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The dequantised model, as a model that never was quantised, and its tokenizer. Raises UserError."""
        self.check()
        check_decoder(self.config(), self.where)
        read: PreTrainedModel = self._read(AutoModelForCausalLM, dtype=dtype)
        model = AutoModelForCausalLM.from_config(unquantised(read.config), dtype=dtype)
        model.load_state_dict(read.state_dict())
        model.generation_config = read.generation_config
        return model.eval(), self._read(AutoTokenizer)

    def describe(self) -> str:
        """What the weights are, for provenance: which quantisation of which package's file."""
        name = distribution_of(self.named) if is_packaged(self.named) else None
        origin = f"{self.file.name} of {name} {installed(name)}" if name else self.file.name
        return f"{self.quantisation()} weights of {origin}, dequantised: not the hub's checkpoint"

    def quantisation(self) -> str:
        """The type of most of its numbers: Q4_1."""
        from gguf import GGUFReader

        counts: Counter[str] = Counter()
        for tensor in GGUFReader(self.file).tensors:
            counts[tensor.tensor_type.name] += int(tensor.n_elements)
        return counts.most_common(1)[0][0] if counts else "no"

    def _read(self, kind: Any, **how: Any) -> Any:
        try:
            return kind.from_pretrained(str(self.file.parent), gguf_file=self.file.name, **how)
        except Exception as error:  # of a dozen kinds
            raise UserError(f"{self.where}: cannot be read ({one_line(error)})") from error


@dataclass(frozen=True, kw_only=True)
class Adapter(Packed):
    """A PEFT adapter and the base it belongs to; merged by peft."""

    folder: Path
    base: str | Gguf
    """Folder or hub id, or a GGUF file."""
    revision: str | None
    """Of a base on the hub."""

    def identity(self) -> dict[str, Any]:
        """The adapter's and the base's content."""
        base = content(self.base, self.revision) if isinstance(self.base, str) else self.base.identity()
        return {"adapter": content(str(self.folder)), "base": base}

    def check(self) -> None:
        """Raises UserError for an adapter that cannot be merged, or a base that cannot be had. Loads no weight."""
        check_files(self.folder, self.key)
        settings = read_object(self.folder / ADAPTER, self.key)
        if (kind := settings.get("peft_type")) not in MERGED:
            raise UserError(f"{self.where}: an adapter of kind {kind!r} cannot be merged; allowed: {', '.join(MERGED)}")
        if not (self.folder / ADAPTER_WEIGHTS).is_file():
            raise UserError(f"{self.where}: no {ADAPTER_WEIGHTS} there; allowed are adapters saved as safetensors")
        header(self.folder / ADAPTER_WEIGHTS, self.key)
        if isinstance(self.base, Gguf):
            self.base.check()
            return
        check_model(self.base, "model.base", self.revision)
        check_decoder(self.config(), f"model.base={self.base}")

    def config(self) -> PretrainedConfig:
        """The base's."""
        if isinstance(self.base, Gguf):
            return self.base.config()
        return read_config(self.base, "model.base", self.revision)

    def unpack(self, dtype: torch.dtype) -> Whole:
        """The base with the adapter merged into it. Raises UserError where they do not belong together."""
        from peft import PeftModel

        self.check()
        model, tokenizer = self._of_base(dtype)
        own = any((self.folder / name).is_file() for name in CONFIGS)
        try:
            merged = PeftModel.from_pretrained(model, str(self.folder)).merge_and_unload(safe_merge=True)
        except Exception as error:  # of a dozen kinds
            raise UserError(f"{self.where}: does not fit its base ({one_line(error)})") from error
        return merged.eval(), load_tokenizer(str(self.folder), self.key) if own else tokenizer

    def _of_base(self, dtype: torch.dtype) -> Whole:
        if isinstance(self.base, Gguf):
            return self.base.unpack(dtype)
        model = load_weights(self.base, dtype, "model.base", self.revision)
        return model, load_tokenizer(self.base, "model.base", self.revision)

    def describe(self) -> str:
        """What the weights are, for provenance. Of a local base its folder's name."""
        base = self.base.describe() if isinstance(self.base, Gguf) else Path(self.base).name
        return f"adapter {self.folder.name} merged into {base}"


def packed(named: str, key: str, base: str | None = None) -> Gguf | Adapter | None:
    """What `named` (a folder, a file, a hub id, package:…) has to be unpacked from; None: it is read as it is.

    `base`: of an adapter, before its own adapter_config.json. Raises UserError where a base is not named at all.
    """
    place = located(named, key) if is_packaged(named) else Path(named)
    if place.suffix == ".gguf" and not place.is_dir():
        if not place.is_file():
            raise UserError(f"{key}={named}: no such file")
        return Gguf(file=place, named=named, key=key)
    if not (place / ADAPTER).is_file():
        return None
    settings = read_object(place / ADAPTER, key)
    wanted = base or settings.get("base_model_name_or_path")
    if not isinstance(wanted, str) or not wanted:
        raise UserError(f"{key}={named}: {ADAPTER} names no base; model.base takes its folder or hub id")
    under = packed(wanted, "model.base")
    if isinstance(under, Adapter):
        raise UserError(f"model.base={wanted}: an adapter of an adapter; allowed is a model folder, file or hub id")
    own = settings.get("revision") if base is None else None
    source = under or (str(located(wanted, "model.base")) if is_packaged(wanted) else wanted)
    return Adapter(folder=place, base=source, revision=own if isinstance(own, str) else None, named=named, key=key)


def unquantised(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the same model with its weights as numbers."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config
