"""A model folder, looked at before a weight is loaded: what is wrong with it is one line that names the file.

The config says what the model is, the headers of the safetensors files which weights there are; neither is large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from simu.models.anatomy import anatomy
from simu.types import UserError, shown

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
KINDS = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".safetensors")
"""What is read of a model folder: weights, config, tokenizer, templates."""
FLOATS = ("F64", "F32", "F16", "BF16")
LAYERS = 1024
BLOCK = re.compile(r"(^|\.)(layers|h)\.\d+\.(?!.*\binv_freq$)")
"""A weight of a decoder layer; inv_freq, which old checkpoints hold, is computed."""


def one_line(error: Exception, limit: int = 240) -> str:
    """What a library raised, in a message of ours."""
    return (" ".join(str(error).split()) or type(error).__name__)[:limit]


def read_files(folder: Path) -> Iterator[Path]:
    """The files that a model folder is read for; a sentence encoder has its parts in folders beside (1_Pooling)."""
    found = (*folder.iterdir(), *folder.glob("additional_chat_templates/*"), *folder.glob("[0-9]_*/*"))
    yield from (path for path in found if path.suffix in KINDS)


def check_files(folder: Path, key: str) -> None:
    """Raise UserError for what is read as a file and is none (a pipe would be waited for without end), and for a JSON
    file that holds none."""
    for path in sorted(read_files(folder)):
        if not path.is_file():
            raise UserError(f"{key}={folder}: {path.name} is no file; allowed is a Hugging Face model folder")
        if path.suffix == ".json":
            read_object(path, key)


def read_object(path: Path, key: str) -> Mapping[str, Any]:
    """A JSON object. Raises UserError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        pointer = "a Git LFS pointer; `git lfs pull` fetches the file" if is_pointer(path) else one_line(error, 120)
        raise UserError(f"{key}={path.parent}: {path.name} is no JSON ({pointer})") from error
    if not isinstance(value, dict):
        raise UserError(f"{key}={path.parent}: {path.name} holds {shown(value)}; allowed is a JSON object")
    return value


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves where the content was not fetched."""
    with path.open("rb") as f:
        return f.read(40).startswith(b"version https://git-lfs")


def read_config(source: str, key: str, revision: str | None = None) -> PretrainedConfig:
    """The config of a folder or hub repository. Raises UserError unless it is of a decoder, unquantised."""
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # of a dozen kinds
        raise UserError(f"{key}={source}: config.json cannot be read ({one_line(error)})") from error
    check_kind(config, f"{key}={source}")
    return config


def check_kind(config: PretrainedConfig, where: str) -> None:
    """Raise UserError unless a config is of a decoder, and of one with its weights as numbers."""
    kind = str(config.model_type)
    if config.is_encoder_decoder:
        raise UserError(f"{where}: {kind} is an encoder-decoder; allowed are decoders (…ForCausalLM)")
    is_encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if is_encoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{where}: {kind} is no causal language model; allowed are decoders (…ForCausalLM)")
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"{where}: its weights are quantised; allowed are float32, bfloat16 and float16")


def skeleton(config: PretrainedConfig, dtype: torch.dtype, where: str) -> PreTrainedModel:
    """The model without weights, on the meta device; `where` names the source in the UserError for sizes that no model
    can have."""
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int) or not 1 <= depth <= LAYERS:
        raise UserError(f"{where}: num_hidden_layers={shown(depth)}; allowed is 1 to {LAYERS}")
    width = getattr(config.get_text_config(), "head_dim", None)
    if isinstance(width, int) and width % 2:
        raise UserError(f"{where}: head_dim={shown(width)}; allowed is an even number (rotary halves)")
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    except Exception as error:  # whatever a size that cannot be leads to
        raise UserError(f"{where}: no {config.model_type} has these sizes ({one_line(error)})") from error


def check_folder(folder: Path, key: str, revision: str | None = None) -> None:
    """Raise UserError for a folder whose files, config or weights cannot be this model. Loads no weight."""
    check_files(folder, key)
    model = check_decoder(read_config(str(folder), key, revision), f"{key}={folder}")
    check_weights(folder, key, {name: list(tensor.shape) for name, tensor in model.state_dict().items()})


def check_decoder(config: PretrainedConfig, where: str) -> PreTrainedModel:
    """The model without weights. Raises UserError unless it is a decoder whose parts can be told apart."""
    check_kind(config, where)
    model = skeleton(config, torch.float32, where)
    try:
        anatomy(model)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return model


def check_weights(folder: Path, key: str, expected: Mapping[str, list[int]]) -> None:
    """Compare the headers of the safetensors files with the names and shapes that the config asks for."""
    for path in weight_files(folder, key):
        for name, kind, shape in header(path, key):
            if kind not in FLOATS:
                raise UserError(f"{key}={folder}: {path.name} holds {name} as {kind}; allowed are {', '.join(FLOATS)}")
            if (wanted := expected.get(name, shape)) != shape:
                raise UserError(f"{key}={folder}: {path.name} holds {name} {shape}, by config.json it is {wanted}")


def weight_files(folder: Path, key: str) -> list[Path]:
    """model.safetensors, or the parts that its index names."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        other = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".safetensors", ".gguf", ".pt", ".pth"))
        raise UserError(f"{key}={folder}: no {WEIGHTS} there (weights: {', '.join(other[:4]) or 'none at all'})")
    placed = read_object(folder / INDEX, key).get("weight_map")
    names = set(placed.values()) if isinstance(placed, dict) and all(map(is_name, placed.values())) else set()
    if not names:
        raise UserError(f"{key}={folder}: {INDEX} has no weight_map that names files")
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise UserError(f"{key}={folder}: {len(missing)} of {len(names)} weight files are missing: {missing[0]} …")
    return [folder / name for name in sorted(names)]


def is_name(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value


def header(path: Path, key: str) -> list[tuple[str, str, list[int]]]:
    """(name, type, shape) of each tensor of a safetensors file. Raises UserError for one that is not whole."""
    try:
        with safe_open(path, framework="pt") as f:
            parts = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118 (it is no dict)
            return [(name, str(part.get_dtype()), list(part.get_shape())) for name, part in parts.items()]
    except (SafetensorError, OSError, ValueError) as error:
        why = "a Git LFS pointer; `git lfs pull` fetches the file" if is_pointer(path) else one_line(error)
        held = f"{path.stat().st_size} bytes; {why}"
        raise UserError(f"{key}={path.parent}: {path.name} is no whole safetensors file ({held})") from error


def load_tokenizer(source: str, key: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub repository. Raises UserError that blames the tokenizer."""
    made: PreTrainedTokenizerBase
    try:
        made = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # of a dozen kinds, `tokenizers` raises Exception itself
        raise UserError(
            f"{key}={source}: no tokenizer there that can be read; model.tokenizer takes another folder or hub id "
            f"({one_line(error)})"
        ) from error
    return made


def load_weights(source: str, dtype: torch.dtype, key: str, revision: str | None = None) -> PreTrainedModel:
    """The model with its weights. Raises UserError where weights are missing, or more than the config asks for."""
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # of a dozen kinds
        raise UserError(f"{key}={source}: cannot be loaded ({one_line(error)})") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{key}={source}: {len(missing)} weights are missing, the first is {missing[0]}")
    if left := sorted(name for name in info["unexpected_keys"] if BLOCK.search(name)):
        raise UserError(f"{key}={source}: {len(left)} weights have no place by config.json, the first is {left[0]}")
    return model.eval()
