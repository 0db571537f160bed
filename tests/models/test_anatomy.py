"""Where each family keeps its parts, on small random models and on the real LLaMA2-7B and OLMo-1B shapes."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, OlmoConfig

from simu.models.anatomy import anatomy, is_conv1d
from simu.types import UserError

SMALL = {
    "num_hidden_layers": 3,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "head_dim": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
}
QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
FAMILIES = {
    "llama": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "mistral": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "olmo": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "olmo2": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "olmo3": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "qwen2": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "qwen3": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "gemma": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "gemma2": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "gemma3_text": (SMALL, "model.layers.2.self_attn", QKVO, "mlp.down_proj"),
    "phi": (SMALL, "model.layers.2.self_attn", ("q_proj", "k_proj", "v_proj", "dense"), "mlp.fc2"),
    "phi3": (SMALL | {"pad_token_id": 0}, "model.layers.2.self_attn", ("qkv_proj", "o_proj"), "mlp.down_proj"),
    "gpt_neox": (SMALL, "gpt_neox.layers.2.attention", ("query_key_value", "dense"), "mlp.dense_4h_to_h"),
    "gpt2": (
        {"vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 4},
        "transformer.h.2.attn",
        ("c_attn", "c_proj"),
        "mlp.c_proj",
    ),
    "opt": (
        SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16},
        "model.decoder.layers.2.self_attn",
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        "fc2",
    ),
}


def meta_model(model_type: str, **kwargs) -> nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **kwargs))


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_each_family(family):
    kwargs, attention, projections, down = FAMILIES[family]
    model = meta_model(family, **kwargs)
    a = anatomy(model)
    assert (a.n_layers, a.d_model, a.n_neurons) == (3, 16, 48)
    assert [name for name, _ in a.attention[2]] == [f"{attention}.{p}" for p in projections]
    block = attention.rpartition(".")[0]
    assert a.down_names[2] == f"{block}.{down}"
    assert a.down_projections[2] is model.get_submodule(a.down_names[2])
    for name, module in a.attention[2]:
        assert model.get_submodule(name) is module
    assert a.final_norm is not None
    assert a.head is model.get_output_embeddings()
    assert is_conv1d(a.down_projections[0]) == (family == "gpt2")


def test_llama2_7b_has_131072_neurons():
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    a = anatomy(model)
    assert a.n_neurons == 131072
    assert a.down_projections[31].weight.shape == (4096, 11008)
    assert sum(p.numel() for p in model.parameters()) == 6_738_415_616  # the published parameter count


def test_olmo_1b_has_32768_neurons():
    config = OlmoConfig(
        vocab_size=50304,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=16,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        a = anatomy(AutoModelForCausalLM.from_config(config))
    assert a.n_neurons == 32768
    assert a.head.weight is a.embed.weight


@pytest.mark.parametrize(
    ("family", "kwargs", "reason"),
    [
        ("mixtral", SMALL | {"num_local_experts": 2}, "mixture of experts"),
        ("qwen3_moe", SMALL | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}, "mixture"),
        ("qwen2_moe", SMALL | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}, "mixture"),
        ("olmoe", SMALL | {"num_experts": 2, "num_experts_per_tok": 1}, "mixture of experts"),
        ("mamba", {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2}, "decoder layers found: none"),
        ("gpt2", {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "add_cross_attention": True}, "cross-"),
        ("bloom", {"vocab_size": 61, "hidden_size": 16, "n_layer": 2, "n_head": 2}, "allowed is"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(family, kwargs, reason):
    model = meta_model(family, **kwargs)
    with pytest.raises(UserError, match=reason) as error:
        anatomy(model)
    assert type(model).__name__ in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_a_head_is_refused(tiny_llama):
    with pytest.raises(UserError, match=r"LlamaModel: has no language-model head"):
        anatomy(tiny_llama.model)


def test_an_adapter_in_place_of_the_down_projection_is_refused(tiny_llama):
    tiny_llama.model.layers[1].mlp.down_proj = nn.Sequential(nn.Linear(24, 16))
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.down_proj is a Sequential"):
        anatomy(tiny_llama)
