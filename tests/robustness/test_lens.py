"""The logit lens, against the library's own hidden states row by row."""

from __future__ import annotations

import pytest
import torch
from small import rows
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from simu.data.batching import collate
from simu.robustness.lens import read

SIZES = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}


@torch.no_grad()
@pytest.mark.parametrize(("config", "model"), [(LlamaConfig, LlamaForCausalLM), (GPTNeoXConfig, GPTNeoXForCausalLM)])
def test_every_layer_as_if_it_were_the_last(config, model):
    torch.manual_seed(0)
    one = model(config(**SIZES, initializer_range=0.5)).eval()
    some = rows(4, seed=3)
    log_prob, rank = read(one, collate(some, 0))
    assert not any(module._forward_hooks for module in one.modules())
    norm = one.base_model.norm if hasattr(one.base_model, "norm") else one.base_model.final_layer_norm
    for i, row in enumerate(some):
        said = one(torch.tensor([row.prompt + row.answer]), output_hidden_states=True)
        start = len(row.prompt) - 1
        for layer in range(3):
            last = layer == 2  # the library's last hidden state has been through the norm
            logits = said.logits if last else one.get_output_embeddings()(norm(said.hidden_states[layer + 1]))
            logits = logits[0, start:-1].double()
            own = logits[torch.arange(len(row.answer)), torch.tensor(row.answer)]
            assert float(log_prob[layer, i]) == pytest.approx(float((own - logits.logsumexp(1)).mean()), abs=1e-5)
            by_hand = [1 + int((line > value).sum()) for line, value in zip(logits, own, strict=True)]
            assert float(rank[layer, i]) == pytest.approx(sum(by_hand) / len(by_hand))
