"""A model folder that is not whole, or not a dense decoder's, is one line that names the file, and nothing waits."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from simu.config import build
from simu.models.load import save_folder, train_tokenizer
from simu.types import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A Llama's and a GPT-2's."""
    root, tokenizer = tmp_path_factory.mktemp("models"), train_tokenizer(["banana bandana cocoa"] * 4, 300)
    size = len(tokenizer)
    llama = LlamaConfig(vocab_size=size, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    gpt2 = GPT2Config(vocab_size=size, n_embd=8, n_layer=1, n_head=2)
    save_folder(LlamaForCausalLM(llama), tokenizer, root / "llama")
    save_folder(GPT2LMHeadModel(gpt2), tokenizer, root / "gpt2")
    return root


@pytest.fixture
def folder(folders, tmp_path):
    return shutil.copytree(folders / "llama", tmp_path / "m")


def model(path: object, **fields: object):
    node = {
        "_target_": "simu.models.load.Pretrained",
        "name": "small",
        "path": str(path),
        "is_target": False,
        "targets": {},
        "tokenizer": None,
        "revision": None,
        "shape": {},
        "max_length": 64,
        "dtype": "float32",
        "choice_scorer": "rouge_l",
        "template": {"prompt": "{prompt}", "separator": " "},
        "target": {
            "lr": 1e-3,
            "batch_size": 4,
            "max_epochs": 1,
            "memorised": 1.0,
            "check_every": 1,
            "weight_decay": 0.0,
        },
    }
    return build(node | fields, "model")


def said(path: Path, **fields: object) -> str:
    """What is said before a weight is loaded."""
    with pytest.raises(UserError) as error:
        model(path, **fields).check("mini")
    line = str(error.value)
    assert "\n" not in line
    return line


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_a_whole_folder_is_right(folder):
    model(folder).check("mini")
    model(folder).load("mini", (), 0, torch.float32)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda whole: whole[: len(whole) // 2], "incomplete metadata"),
        (lambda whole: b"", "0 bytes"),
        (lambda whole: bytes(range(256)) * 20, "header too large"),
        (lambda whole: POINTER, "a Git LFS pointer"),
    ],
    ids=["truncated", "empty", "garbage", "pointer"],
)
def test_weights_that_are_not_whole(folder, content, why):
    path = folder / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    line = said(folder)
    assert line.startswith(f"model.path={folder}: model.safetensors is no whole safetensors file (")
    assert why in line


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_or_a_folder_for_a_file_waits_for_nothing(folder, name):
    piped(folder / name)
    assert name in said(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in said(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "config.json is no JSON"),
        ("{", "config.json is no JSON"),
        ("\x00\x01", "config.json is no JSON"),
        ("[]", "config.json holds []; allowed is a JSON object"),
        ("null", "config.json holds None; allowed is a JSON object"),
        ("{}", "config.json cannot be read"),
        ('{"model_type": 5}', "config.json cannot be read"),
        ('{"n": ' + "7" * 5000 + "}", "config.json is no JSON"),
        (POINTER.decode(), "a Git LFS pointer"),
    ],
)
def test_a_config_that_is_none(folder, text, why):
    (folder / "config.json").write_text(text)
    assert why in said(folder)


def test_parts_of_weights(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors there" in said(folder)
    (folder / "pytorch_model.bin").touch()
    assert "no model.safetensors there (weights: pytorch_model.bin)" in said(folder)
    index = folder / "model.safetensors.index.json"
    names = [f"model-{i}.safetensors" for i in (1, 2)]
    placed = {name: names[i % 2] for i, name in enumerate(sorted(weights))}
    for part in names:
        save_file({n: weights[n] for n in weights if placed[n] == part}, folder / part, metadata={"format": "pt"})
    for content in ("{}", '{"weight_map": 5}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        assert "has no weight_map that names files" in said(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    model(folder).load("mini", (), 0, torch.float32)
    (folder / names[1]).write_bytes(b"")
    assert f"{names[1]} is no whole safetensors file" in said(folder)
    (folder / names[1]).unlink()
    assert f"1 of 2 weight files are missing: {names[1]}" in said(folder)


def reconfigured(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_size": 16, "head_dim": 8}, "[270, 8], by config.json it is [270, 16]"),
        ({"vocab_size": 300}, "[270, 8], by config.json it is [300, 8]"),
        ({"intermediate_size": 12}, "by config.json it is [8, 12]"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; allowed is 1 to 1024"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0; allowed is 1 to 1024"),
        ({"head_dim": 3}, "head_dim=3; allowed is an even number"),
        ({"vocab_size": -5}, "no llama has these sizes"),
        ({"model_type": "t5"}, "t5 is an encoder-decoder; allowed are decoders"),
        ({"model_type": "bart"}, "bart is an encoder-decoder; allowed are decoders"),
        ({"model_type": "bert"}, "bert is no causal language model; allowed are decoders"),
        ({"model_type": "vit"}, "vit is no causal language model; allowed are decoders"),
        ({"model_type": "mixtral"}, "is a mixture of experts"),
        ({"model_type": "mamba"}, "decoder layers found: none"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "its weights are quantised"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "its weights are quantised"),
        ({"model_type": "no_such"}, "config.json cannot be read"),
    ],
)
def test_a_config_of_another_model(folder, changes, why):
    reconfigured(folder, **changes)
    line = said(folder)
    assert line.startswith(f"model.path={folder}: ")
    assert why in line


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: reconfigured(f, num_hidden_layers=1), "9 weights have no place by config.json"),
        (lambda f: reconfigured(f, num_hidden_layers=3), "9 weights are missing, the first is model.layers.2."),
        (lambda f: reconfigured(f, attention_bias=True), "8 weights are missing"),
        (lambda f: reconfigured(f, model_type="gpt2"), "weights are missing"),
    ],
    ids=["fewer layers", "more layers", "biases", "another family"],
)
def test_weights_that_are_not_the_configs(folder, change, why):
    change(folder)
    with pytest.raises(UserError, match=why):
        model(folder).load("mini", (), 0, torch.float32)


def test_quantised_weights_without_a_word_in_the_config(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, path, metadata={"format": "pt"})
    assert "holds model.norm.weight as I8; allowed are F64, F32, F16, BF16" in said(folder)


def test_an_adapter_alone_is_no_model(folder, folders):
    assert model(folder).packed("mini") is None
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "adapter_config.json names no base; model.base takes its folder or hub id" in said(folder)
    line = said(folders / "llama", tokenizer=str(folder))
    assert "an adapter; allowed is a model folder with the adapter merged into it" in line


def test_a_missing_tokenizer_is_blamed(folder, folders, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert said(folder).startswith(f"model.path={folder}: no tokenizer there that can be read; model.tokenizer takes")
    model(folder, tokenizer=str(folders / "llama")).check("mini")
    other = tmp_path / "t"
    other.mkdir()
    (other / "tokenizer_config.json").write_text("{}")
    assert said(folders / "llama", tokenizer=str(other)).startswith(f"model.tokenizer={other}: no tokenizer there")


def test_a_published_targets_folder_goes_by_its_own_key(folder):
    (folder / "model.safetensors").write_bytes(b"")
    assert said("org/none", targets={"mini": str(folder)}).startswith(f"model.targets.mini={folder}: ")


DAMAGE = {
    "missing": lambda path, other: path.unlink(),
    "empty": lambda path, other: path.write_bytes(b""),
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 3]),
    "garbage": lambda path, other: path.write_bytes(bytes(range(256)) * 7),
    "object": lambda path, other: path.write_bytes(b"{}"),
    "of another model": lambda path, other: shutil.copyfile(other / path.name, path),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(damage=st.dictionaries(st.sampled_from(FILES), st.sampled_from(sorted(DAMAGE)), min_size=1, max_size=3))
def test_any_damage_is_one_line_or_a_model(folders, tmp_path_factory, damage):
    path = shutil.copytree(folders / "llama", tmp_path_factory.mktemp("damaged") / "m")
    for name, kind in damage.items():
        DAMAGE[kind](path / name, folders / "gpt2")
    try:
        model(path).check("mini")
        loaded, _ = model(path).load("mini", (), 0, torch.float32)
        line = "" if not any(p.is_meta for p in loaded.parameters()) else "no weights"
    except UserError as error:
        line = str(error)
    assert line == "" or str(path) in line
    assert "\n" not in line
