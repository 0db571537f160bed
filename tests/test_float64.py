"""The tests' oracle is one: no float32 anywhere between ids and gradients, in every family that tests build."""

from __future__ import annotations

import copy

import pytest
import torch
from float64 import true_float64, watching_float32
from small import SMALL
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {**SMALL, "num_hidden_layers": 2}
FAMILIES = ("llama", "olmo", "olmo2", "qwen2", "qwen3", "mistral", "phi", "gpt_neox", "gemma2")
CASES = [(f, "eager") for f in FAMILIES] + [("llama", "sdpa"), ("phi", "sdpa")]
IDS = torch.tensor([[5, 9, 11, 3, 8, 40], [7, 20, 30, 41, 2, 6]])


def model_of(family: str, attention: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_nothing_is_computed_in_float32(family, attention):
    plain = model_of(family, attention).double()
    model = copy.deepcopy(true_float64(copy.deepcopy(plain)))
    with watching_float32() as found:
        logits = model(input_ids=IDS, use_cache=False).logits
        logits.logsumexp(-1).sum().backward()
    assert found == []
    with watching_float32() as found:
        expected = plain.eval()(input_ids=IDS, use_cache=False).logits
    assert found  # what `.double()` leaves
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)  # the same model, up to float32
    assert torch.equal(plain.get_output_embeddings().weight, model.get_output_embeddings().weight)


def test_a_llama_equals_its_formulas_to_the_last_digits():
    """One block written out in float64: RMSNorm, rotary attention, SiLU gate."""
    model = true_float64(model_of("llama", "eager"))
    model.model.layers = model.model.layers[:1]
    with torch.no_grad():
        got = model(input_ids=IDS[:1], use_cache=False).logits[0]
        layer, x = model.model.layers[0], model.model.embed_tokens(IDS[0])

        def norm(x: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
            return x / (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt() * module.weight

        angles = torch.arange(len(x))[:, None] * model.model.rotary_emb.inv_freq  # [T, 2]

        def rotated(x: torch.Tensor) -> torch.Tensor:  # [H, T, 4]
            a, b = x.chunk(2, -1)
            return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

        at, h = layer.self_attn, norm(x, layer.input_layernorm)
        q, k, v = (p(h).view(len(x), -1, 4).transpose(0, 1) for p in (at.q_proj, at.k_proj, at.v_proj))
        q, k, v = rotated(q), rotated(k).repeat_interleave(2, 0), v.repeat_interleave(2, 0)
        hidden_from = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        p = (q @ k.transpose(1, 2) / 2).masked_fill(hidden_from, -torch.inf).softmax(-1)
        x = x + at.o_proj((p @ v).transpose(0, 1).flatten(1))
        h = norm(x, layer.post_attention_layernorm)
        x = x + layer.mlp.down_proj(torch.nn.functional.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        expected = model.lm_head(norm(x, model.model.norm))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-15)
