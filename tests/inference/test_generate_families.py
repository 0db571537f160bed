"""Text identical to batch-1 transformers `generate` in float32, for every decoder family, any batching, any draft.

Models are random with their weights scaled up: logits spread, rows end at different lengths and fall into loops, as
those of trained and of collapsed models do.
"""

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from simu.inference.decoding import Work
from simu.inference.generate import generate
from simu.inference.slots import trial

EOS, NEW = 2, 18
COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}
WINDOW = {"sliding_window": 5}
GPT2 = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}
EXACT = {
    "llama": ("llama", COMMON, "sdpa"),
    "llama-eager": ("llama", COMMON, "eager"),
    "olmo": ("olmo", COMMON, "sdpa"),
    "olmo2": ("olmo2", COMMON, "sdpa"),
    "olmo3-window": ("olmo3", COMMON | WINDOW, "sdpa"),
    "mistral": ("mistral", COMMON | {"sliding_window": None}, "sdpa"),
    "mistral-window": ("mistral", COMMON | WINDOW, "sdpa"),
    "mistral-window-eager": ("mistral", COMMON | WINDOW, "eager"),
    "qwen2": ("qwen2", COMMON, "sdpa"),
    "qwen2-window": ("qwen2", COMMON | WINDOW | {"use_sliding_window": True, "max_window_layers": 1}, "sdpa"),
    "qwen3": ("qwen3", COMMON, "sdpa"),
    "gemma": ("gemma", COMMON, "sdpa"),
    "gemma2": ("gemma2", COMMON | WINDOW | {"query_pre_attn_scalar": 8}, "eager"),
    "gemma3": ("gemma3_text", COMMON | WINDOW | {"query_pre_attn_scalar": 8}, "sdpa"),
    "phi": ("phi", COMMON, "sdpa"),
    "phi3": ("phi3", COMMON, "sdpa"),
    "gpt_neox": ("gpt_neox", COMMON, "sdpa"),
    "gpt2": ("gpt2", GPT2, "sdpa"),
}
ROPE = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
FALLS_BACK = {
    "bloom": ("bloom", {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4, "eos_token_id": EOS}, "eager"),
    "mamba": ("mamba", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": EOS}, "eager"),
    "dynamic-rope": ("llama", COMMON | ROPE, "sdpa"),
}


class Numbers:
    """A tokenizer of numbers: all that the engine asks of one."""

    pad_token_id, eos_token_id = 0, EOS

    def decode(self, ids, skip_special_tokens=True, clean_up_tokenization_spaces=False):
        return " ".join(str(i) for i in ids if i > EOS or not skip_special_tokens)


def build(kind, fields, attention):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p *= 4
        model.get_output_embeddings().weight[EOS] *= 2.5
    return model


def drafts(official_ids, rng):
    """In turn: the answer itself, the answer with one wrong token, an unrelated one, the answer's beginning, none."""
    made = []
    for i, ids in enumerate(official_ids):
        wrong = [*ids]
        wrong[len(ids) // 2] = 50
        other = [rng.randrange(3, 97) for _ in range(9)]
        made.append([[*ids], wrong, other, ids[: len(ids) // 2], []][i % 5])
    return made


def check(model, official):
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 97) for _ in range(n)] for n in (1, 3, 9, 9, 2, 17, 30, 5)]
    official_ids = official(model, prompts, NEW)
    for references in (None, drafts(official_ids, rng)):
        for budget in (10, 250):
            work = Work()
            found = generate(
                model, Numbers(), prompts, max_new_tokens=NEW, references=references, max_batch_tokens=budget, work=work
            )
            assert [[*g.ids] + [EOS] * g.finished for g in found] == official_ids, (references is not None, budget)
            assert [g.text for g in found] == [Numbers().decode(ids) for ids in official_ids]
            assert work.decisions == sum(map(len, official_ids))
    return official_ids, work


@pytest.mark.parametrize("family", EXACT)
def test_same_text_as_transformers_one_row_at_a_time(family, official):
    model = build(*EXACT[family])
    reason, noise = trial(model)
    assert reason is None
    assert 0 <= noise < 1e-5
    _, work = check(model, official)
    assert work.passes < work.decisions / 3


@pytest.mark.parametrize("family", FALLS_BACK)
def test_a_model_without_the_fast_path_says_so_and_is_exact(family, caplog, official):
    model = build(*FALLS_BACK[family])
    check(model, official)
    assert "falls back to one row at a time" in caplog.text


def test_the_random_models_end_rows_and_loop(official):
    """The comparison above would prove little if every row ran to the limit, or none did."""
    models = [build(*EXACT[family]) for family in ("llama", "qwen3", "phi", "gpt_neox")]
    ended = [ids[-1] == EOS for model in models for ids in check(model, official)[0]]
    assert 5 <= sum(ended) <= len(ended) - 5
