"""The likelihood engine against plain float64 arithmetic on each row alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simu.data.batching import Encoded
from simu.inference.likelihood import joined, score, stride, token_scores, windows

ROWS = [
    Encoded((5, 6, 7), (8, 9, 1)),
    Encoded((5,), (8, 1)),
    Encoded((40, 41, 42, 43, 44), (45, 46, 47, 48, 49, 50, 1)),
    Encoded((5, 6, 7), (8, 9, 1)),  # the first again
    Encoded((5, 6), (7, 8, 9, 1)),  # the same tokens, another seam
]


class NoTokenizer:
    """All that the engine asks of a tokenizer."""

    pad_token_id = None
    eos_token_id = 1


def by_hand(model, row):
    """log p, its mean and variance over the vocabulary, and hits: a Python sum for every token."""
    logits = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0].double()
    found = []
    for j, token in enumerate(row.answer):
        p = torch.softmax(logits[len(row.prompt) + j - 1], -1).tolist()
        mean = sum(x * math.log(x) for x in p)
        var = sum(x * math.log(x) ** 2 for x in p) - mean**2
        found.append((math.log(p[token]), mean, var, max(range(len(p)), key=p.__getitem__) == token))
    return found


@pytest.mark.parametrize("budget", [1, 12, 1000])
def test_scores_equal_plain_arithmetic_at_any_batch_size(tiny_llama, budget):
    scores = score(tiny_llama, NoTokenizer(), ROWS, max_batch_tokens=budget)
    for row, found in zip(ROWS, scores, strict=True):
        log_prob, mean, var, hit = zip(*by_hand(tiny_llama, row), strict=True)
        assert found.log_prob.dtype == found.mean_log_prob.dtype == found.var_log_prob.dtype == torch.float32
        assert found.log_prob.tolist() == pytest.approx(log_prob, abs=2e-6)
        assert found.mean_log_prob.tolist() == pytest.approx(mean, abs=2e-6)
        assert found.var_log_prob.tolist() == pytest.approx(var, abs=2e-6)
        assert found.hit.tolist() == list(hit)
        assert found.nll == pytest.approx(-sum(log_prob), abs=1e-5)
        assert found.mean_nll == pytest.approx(-sum(log_prob) / len(row.answer), abs=1e-5)


def test_hits_are_the_models_first_choice(tiny_llama):
    prompt, greedy = (5, 6, 7), []
    for _ in range(4):
        greedy.append(int(tiny_llama(input_ids=torch.tensor([[*prompt, *greedy]])).logits[0, -1].argmax()))
    wrong = [*greedy[:2], (greedy[2] + 1) % 97, greedy[3]]
    right, partly = score(
        tiny_llama, NoTokenizer(), [Encoded(prompt, tuple(greedy)), Encoded(prompt, tuple(wrong))], max_batch_tokens=100
    )
    assert right.hit.tolist() == [True] * 4
    assert partly.hit.tolist()[:3] == [True, True, False]


def test_equal_rows_are_computed_once(tiny_llama):
    seen = []
    tiny_llama.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"].shape[0]), with_kwargs=True)
    score(tiny_llama, NoTokenizer(), ROWS * 3, max_batch_tokens=100)
    assert sum(seen) == 4


def test_model_is_left_in_the_mode_it_was_in(tiny_llama):
    tiny_llama.train()
    tiny_llama.model.layers[0].eval()
    score(tiny_llama, NoTokenizer(), ROWS, max_batch_tokens=100)
    assert tiny_llama.training
    assert not tiny_llama.model.layers[0].training
    assert tiny_llama.model.layers[1].training


def test_hand_computed_distribution():
    # p = (1/2, 1/4, 1/4): mean = −ln2/2 − ln4/2 = −1.5 ln2, second moment = ln²2/2 + ln²4/2 = 2.5 ln²2
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log() + 3
    found = token_scores(logits, torch.tensor([1]))
    ln2 = math.log(2)
    assert found.log_prob.item() == pytest.approx(-2 * ln2, rel=1e-6)
    assert found.mean_log_prob.item() == pytest.approx(-1.5 * ln2, rel=1e-6)
    assert found.var_log_prob.item() == pytest.approx(0.25 * ln2**2, rel=1e-5)
    assert found.hit.tolist() == [False]


def test_a_ruled_out_token_adds_nothing_and_half_precision_is_widened_first():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    found = token_scores(logits, torch.tensor([0]))
    assert found.mean_log_prob.item() == pytest.approx(-math.log(2))
    assert found.var_log_prob.item() == pytest.approx(0.0, abs=1e-7)
    wide = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    target = torch.arange(7)
    expected = torch.log_softmax(wide.double(), -1).gather(1, target[:, None])[:, 0]
    assert torch.allclose(token_scores(wide, target).log_prob.double(), expected, atol=1e-6)


def test_chunks_do_not_change_the_result():
    logits = torch.randn(11, 13, generator=torch.Generator().manual_seed(0))
    target = torch.arange(11)
    whole, pieces = token_scores(logits, target, chunk=100), token_scores(logits, target, chunk=3)
    for name in ("log_prob", "mean_log_prob", "var_log_prob", "hit"):
        assert torch.equal(getattr(whole, name), getattr(pieces, name)), name


def test_no_rows():
    empty = token_scores(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert len(empty) == 0
    assert math.isnan(empty.mean_nll)


def test_empty_prompt_scores_all_but_the_first_token(tiny_llama):
    (found,) = score(tiny_llama, NoTokenizer(), [Encoded((), (8, 9, 1))], max_batch_tokens=100)
    assert len(found) == 2
    logits = tiny_llama(input_ids=torch.tensor([[8, 9, 1]])).logits[0, :2]
    expected = torch.log_softmax(logits, -1)[range(2), [9, 1]]
    assert found.log_prob.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_no_rows_at_all(tiny_llama):
    assert score(tiny_llama, NoTokenizer(), [], max_batch_tokens=100) == []


# Windows of a long text


@given(st.integers(2, 40), st.integers(2, 12))
def test_windows_score_every_token_once_and_in_order(n, limit):
    ids = tuple(range(100, 100 + n))
    rows = windows(ids, limit)
    assert tuple(token for row in rows for token in row.answer) == ids[1:]
    assert all(len(row) <= limit for row in rows)
    for row in rows[1:]:
        assert len(row) == limit  # as much context as there is room for
        assert len(row.prompt) >= limit - stride(limit)
        first = row.answer[0] - 100
        assert row.prompt == ids[first - len(row.prompt) : first]  # what stands before, without a gap


def test_a_text_that_fits_is_one_row():
    assert windows((7, 8, 9), 3) == windows((7, 8, 9), 50) == [Encoded((7,), (8, 9))]
    assert windows((7, 8, 9, 10, 11), 4) == [Encoded((7,), (8, 9, 10)), Encoded((8, 9, 10), (11,))]


@pytest.mark.parametrize("n", [2, 8, 9, 12, 13, 23])
def test_joined_windows_equal_each_token_predicted_on_its_own(tiny_llama, n):
    ids, limit = torch.randint(97, (n,), generator=torch.Generator().manual_seed(n)).tolist(), 8
    found = joined(score(tiny_llama, NoTokenizer(), windows(ids, limit), max_batch_tokens=20))
    expected = []
    for t in range(1, n):
        end = limit if t < limit else min(limit + ((t - limit) // 4 + 1) * 4, n)
        context = ids[max(0, end - limit) : t]
        logits = tiny_llama(input_ids=torch.tensor([context])).logits[0, -1]
        expected.append(torch.log_softmax(logits, -1)[ids[t]].item())
    assert found.log_prob.tolist() == pytest.approx(expected, abs=2e-6)
    assert len(found.hit) == len(found.mean_log_prob) == len(found.var_log_prob) == n - 1
