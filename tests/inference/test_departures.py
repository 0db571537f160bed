"""Other answers of the model's own: which departures are taken, by hand, and each completed as `generate` would."""

from __future__ import annotations

from math import log

import pytest
import torch

from simu.data.batching import Encoded, encode_examples
from simu.inference.departures import Departure, alternatives, departures, of_row, others, ranked
from simu.types import Template

TEMPLATE = Template(prompt="Q: {prompt}\nA:", separator=" ")
# P(next) at three places; the answer is 2, 0, 1
P = [[0.2, 0.3, 0.5], [0.7, 0.1, 0.2], [0.05, 0.9, 0.05]]


def log_p(table: list[list[float]]) -> torch.Tensor:
    return torch.tensor([[log(p) for p in row] for row in table])


def test_departures_by_hand():
    """Second choices 0.3, 0.2 and 0.05 first, the likeliest of them first; then third choices 0.2, 0.1."""
    expected = [Departure(0, 1), Departure(1, 2), Departure(2, 0), Departure(0, 0), Departure(1, 1)]
    assert ranked(log_p(P), [2, 0, 1], 5)[:2] == expected[:2]
    assert ranked(log_p(P), [2, 0, 1], 5)[3:] == expected[3:]
    assert ranked(log_p(P), [2, 0, 1], 1) == expected[:1]
    assert len(ranked(log_p(P), [2, 0, 1], 99)) == 6  # two others at each of three places


def test_no_departure_from_eos_nor_into_a_control_token():
    row = Encoded((5,), (2, 0, 1))  # 1 is EOS
    found = of_row(log_p(P), row, frozenset({1}), torch.tensor([1]), 9)
    assert found == [Departure(0, 0), Departure(1, 2)]  # 0.2 each, the earlier place first; 0.3 and 0.9 are EOS's
    alone = Encoded((5,), (1,))
    assert of_row(log_p(P[:1]), alone, frozenset({1}), torch.tensor([1]), 9) == []


def test_a_row_without_prompt_keeps_its_first_token():
    row = Encoded((), (2, 2, 0, 1))
    found = of_row(log_p(P), row, frozenset({1}), torch.tensor([1]), 9)
    assert {d.position for d in found} == {1, 2}


def test_others_are_each_once_and_never_the_answer():
    assert list(others("Ada", ["Bob", "Ada", "", "Bob", "Cyd"])) == ["Bob", "Cyd"]


def test_each_alternative_is_what_the_model_gives_behind_its_departure(memorised, tokenizer, small_splits):
    rows = encode_examples(tokenizer, TEMPLATE, small_splits.forget)
    made = alternatives(memorised, tokenizer, rows, count=3, max_new_tokens=12, max_batch_tokens=256)
    led = departures(memorised, tokenizer, rows, 3, 256)
    for row, texts, own in zip(rows, made, led, strict=True):
        expected = []
        for d in own:
            assert d.token != row.answer[d.position]
            kept = [*row.answer[: d.position], d.token]
            ids = torch.tensor([[*row.prompt, *kept]])
            out = memorised.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=1, eos_token_id=1)
            expected.append(tokenizer.decode(out[0, len(row.prompt) :], skip_special_tokens=True).strip())
        answer = tokenizer.decode(row.answer, skip_special_tokens=True).strip()
        assert texts == [t for t in dict.fromkeys(expected) if t != answer]
        assert texts


def test_a_killed_generation_goes_on_to_the_same_texts(memorised, tokenizer, small_splits, tmp_path, monkeypatch):
    rows = encode_examples(tokenizer, TEMPLATE, small_splits.forget)
    how = {"count": 2, "max_new_tokens": 12, "max_batch_tokens": 64}
    whole = alternatives(memorised, tokenizer, rows, **how)
    assert alternatives(memorised, tokenizer, rows, **how, checkpoint=tmp_path) == whole
    assert list(tmp_path.rglob("*.jsonl"))

    def no_more(*_, **__):
        raise AssertionError("a finished row was decoded again")

    for step in ("_decode_chunk", "_verify_batch"):
        monkeypatch.setattr(f"simu.inference.decoding.Engine.{step}", no_more)
    assert alternatives(memorised, tokenizer, rows, **how, checkpoint=tmp_path) == whole


@pytest.mark.parametrize("count", [1, 4])
def test_no_more_than_asked_for(memorised, tokenizer, small_splits, count):
    rows = encode_examples(tokenizer, TEMPLATE, small_splits.forget)
    made = alternatives(memorised, tokenizer, rows, count=count, max_new_tokens=4, max_batch_tokens=256)
    assert all(0 < len(texts) <= count for texts in made)
