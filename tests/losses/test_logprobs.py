"""Labelled positions only, through the model's own tail, a chunk at a time."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from simu.data.batching import Encoded, collate
from simu.losses.logprobs import answer_loss, row_log_probs, token_log_probs
from simu.models.forward import CHUNK, labelled_hidden, labelled_logits, logits_beside
from simu.models.reference import Reference, untouched_head

ROWS = [Encoded((5, 9, 11), (3, 8)), Encoded((7,), (20, 30, 41, 2)), Encoded((), (4, 6, 2))]


def test_token_log_probs_equal_a_plain_log_softmax(tiny_llama):
    values, where = token_log_probs(tiny_llama, collate(ROWS, 0))
    expected = []
    for row in ROWS:  # one by one, without padding
        ids = row.prompt + row.answer
        with torch.no_grad():
            log_p = tiny_llama(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected += [log_p[t - 1, ids[t]] for t in range(max(1, len(row.prompt)), len(ids))]
    torch.testing.assert_close(values, torch.stack(expected), rtol=0, atol=1e-12)
    assert where.row.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]  # the first token of the third row is not predicted
    assert where.counts(3) == [2, 4, 2]
    sums = [sum(expected[:2]), sum(expected[2:6]), sum(expected[6:])]
    torch.testing.assert_close(row_log_probs(tiny_llama, collate(ROWS, 0)), torch.stack(sums), rtol=0, atol=1e-12)


def gemma() -> Gemma2ForCausalLM:
    """Soft-caps its final logits, and ties its head to the embedding."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        final_logit_softcapping=0.5,
        attn_implementation="eager",
    )
    return Gemma2ForCausalLM(config).double().eval()


def test_the_models_own_tail_runs_on_both_logits():
    model, batch = gemma(), collate(ROWS[:2], 0)
    with torch.no_grad():
        plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        own, where = labelled_logits(model, batch)
        torch.testing.assert_close(own, plain[where.row, where.position], rtol=0, atol=1e-12)
        assert own.abs().max() < 0.5  # capped
        reference = Reference(labelled_hidden(model, batch)[0], untouched_head(model))
        own, untouched, _ = logits_beside(model, batch, reference)
    torch.testing.assert_close(own, untouched, rtol=0, atol=1e-12)


def test_no_full_vocabulary_float32_logits_exist_at_once():
    """A bf16 model on 1000 labelled tokens: float32 tensors with the vocabulary's width are a chunk high at most."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).bfloat16()
    batch = collate([Encoded(tuple(range(50)), tuple(range(100))) for _ in range(10)], 0)
    tallest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal tallest
            out = function(*args, **(kwargs or {}))
            for t in tree_iter(out):
                if isinstance(t, torch.Tensor) and t.dtype == torch.float32 and t.ndim and t.shape[-1] == 512:
                    tallest = max(tallest, t.numel() // 512)
            return out

    with Watch():
        loss = answer_loss(model, batch)
        (loss.total / loss.count).backward()
    assert loss.count == 1000
    assert 0 < tallest <= CHUNK
    weight = model.lm_head.weight
    assert weight.grad is not None
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    shifted = batch["labels"][:, 1:].flatten()
    expected = cross_entropy(logits[:, :-1].flatten(0, 1).float(), shifted, ignore_index=-100)
    torch.testing.assert_close(loss.total / loss.count, expected, rtol=2e-3, atol=0)
