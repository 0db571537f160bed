"""Samples against exact enumeration, the library's top-p, and the greedy engine; whatever shares their batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM, TopPLogitsWarper

from simu.data.mini import Mini
from simu.inference.generate import generate
from simu.inference.sampling import pick, probabilities, sample, uniforms
from simu.models.load import texts_of, train_tokenizer
from simu.types import Template, UserError

ROWS = Mini(authors=4, holdout_authors=1)().retain[:6]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(texts_of([(e.prompt, e.answer) for e in ROWS], Template()), 300)


def model(tokenizer, vocabulary: int | None = None, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    size = vocabulary or len(tokenizer)
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, initializer_range=0.6, **sizes, **ends)).eval()


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[list[int]]:
    return [tokenizer(e.prompt).input_ids[: 4 + 3 * i] for i, e in enumerate(ROWS)]


def ids(found) -> list[list[tuple[int, ...]]]:
    return [[one.ids for one in row] for row in found]


def test_two_tokens_are_distributed_as_enumeration_has_them(tokenizer):
    """A vocabulary of 6, every pair of tokens (or an end before), 4000 samples: chi-square."""
    one = model(tokenizer, vocabulary=6)
    eos = {one.config.eos_token_id, tokenizer.eos_token_id}
    prompt = [3, 4, 5]
    expected: dict[tuple[int, ...], float] = {}

    def next_token(given):
        logits = one(torch.tensor([given])).logits[0, -1].double() / 0.7
        warped = TopPLogitsWarper(0.9)(None, logits[None])[0]
        return warped.softmax(-1).tolist()

    with torch.no_grad():
        for first, p in enumerate(next_token(prompt)):
            if first in eos:
                expected[()] = expected.get((), 0.0) + p
                continue
            for second, q in enumerate(next_token([*prompt, first])):
                key = (first,) if second in eos else (first, second)
                expected[key] = expected.get(key, 0.0) + p * q
    (found,) = sample(
        one, tokenizer, [prompt], samples=4000, max_new_tokens=2, max_batch_tokens=4000, temperature=0.7, top_p=0.9
    )
    counts = {key: sum(g.ids == key for g in found) for key in expected}
    assert sum(counts.values()) == 4000  # nothing outside the nucleus
    kept = [key for key, p in expected.items() if p * 4000 >= 5]
    observed = [*(counts[key] for key in kept), 4000 - sum(counts[key] for key in kept)]
    wanted = [*(expected[key] * 4000 for key in kept), 4000 * (1 - sum(expected[key] for key in kept))]
    pairs = [(o, w) for o, w in zip(observed, wanted, strict=True) if w > 1e-9]
    assert len(pairs) > 6
    assert stats.chisquare(*zip(*pairs, strict=True)).pvalue > 1e-3
    assert stats.chisquare([counts[key] for key in kept]).pvalue < 1e-6  # and it can tell: even odds are far off


def test_batches_and_order_do_not_change_a_text(tokenizer, prompts):
    one = model(tokenizer)
    names = [e.id for e in ROWS]
    asked = {"samples": 5, "max_new_tokens": 12, "seed": 7}
    whole = ids(sample(one, tokenizer, prompts, max_batch_tokens=100_000, names=names, **asked))
    narrow = ids(sample(one, tokenizer, prompts, max_batch_tokens=70, names=names, **asked))
    single = ids(sample(one, tokenizer, prompts, max_batch_tokens=1, names=names, **asked))
    assert whole == narrow == single
    turned = ids(sample(one, tokenizer, prompts[::-1], max_batch_tokens=300, names=names[::-1], **asked))
    assert turned[::-1] == whole
    fewer = ids(sample(one, tokenizer, prompts, max_batch_tokens=300, names=names, **{**asked, "samples": 2}))
    assert fewer == [row[:2] for row in whole]
    assert len({text for row in whole for text in row}) > 20
    other = ids(sample(one, tokenizer, prompts, max_batch_tokens=300, names=names, **{**asked, "seed": 8}))
    assert other != whole


def test_without_temperature_it_is_the_greedy_text(tokenizer, prompts):
    one = model(tokenizer, seed=1)
    greedy = [g.ids for g in generate(one, tokenizer, prompts, max_new_tokens=10, max_batch_tokens=500)]
    for temperature in (0.0, 1e-6):
        found = sample(
            one, tokenizer, prompts, samples=2, max_new_tokens=10, max_batch_tokens=500, temperature=temperature
        )
        assert ids(found) == [[g, g] for g in greedy]


@pytest.mark.parametrize(("temperature", "top_p"), itertools.product((0.5, 1.0, 2.0), (0.1, 0.6, 0.95, 1.0)))
def test_the_nucleus_is_transformers_own(temperature, top_p):
    logits = 2 * torch.randn(8, 50, generator=torch.Generator().manual_seed(0)).double()
    warped = logits / temperature
    warped = TopPLogitsWarper(top_p)(None, warped) if top_p < 1 else warped
    torch.testing.assert_close(probabilities(logits, temperature, top_p), warped.softmax(-1), rtol=1e-9, atol=1e-12)


def test_the_token_is_where_the_cumulative_probability_passes():
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(5, 3)
    assert pick(logits, torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71]).double(), 1.0, 1.0) == [0, 0, 1, 1, 2]
    assert pick(logits, torch.tensor([0.0, 0.3, 0.6, 0.62, 0.99]).double(), 1.0, 0.75) == [1, 1, 1, 1, 2]  # 0.5 : 0.3
    assert uniforms(3, 0, "a", 1).tolist() != uniforms(3, 0, "a", 2).tolist() != uniforms(3, 0, "b", 2).tolist()


@pytest.mark.parametrize(
    ("words", "said"),
    [({"samples": 0}, "samples"), ({"temperature": -1.0}, "temperature"), ({"top_p": 0.0}, "top_p"), ({}, "prompt 1")],
)
def test_bad_input_is_one_line(tokenizer, words, said):
    asked = {"samples": 1, "max_new_tokens": 2, "max_batch_tokens": 10} | words
    with pytest.raises(UserError if said == "prompt 1" else ValueError, match=said):
        sample(model(tokenizer), tokenizer, [[1], []], **asked)
