"""Another question, and answered questions before it: what the model reads, and what the figures are then of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from simu.data.batching import encode
from simu.data.encoding import prompt_ids
from simu.evaluation.prompts import ask_otherwise, spread
from simu.evaluation.rows import rows_of
from simu.evaluation.tofu import TofuEvaluator
from simu.types import Example, FieldError, Splits, Subject, Template

TEMPLATE = Template(prompt="Q: {prompt}\nA:", separator=" ")
EVALUATOR = TofuEvaluator(max_new_tokens=24, bootstrap=0)
SHOTS = (("Who?", "Ada."), ("Where?", "Oslo."))


def text_of(model, tokenizer, text: str) -> str:
    ids = tokenizer(text, return_tensors="pt")
    made = model.generate(**ids, do_sample=False, max_new_tokens=24, pad_token_id=1, eos_token_id=1)
    return tokenizer.decode(made[0, ids.input_ids.shape[1] :], skip_special_tokens=True)


def mean_nll(model, tokenizer, text: str, answer: str) -> float:
    head = tokenizer(text).input_ids
    tail = [*tokenizer(" " + answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(tail)))


def test_what_stands_before_a_question(tokenizer):
    ids = prompt_ids(tokenizer, TEMPLATE, "When?", SHOTS)
    expected = "Q: Who?\nA: Ada.\n\nQ: Where?\nA: Oslo.\n\nQ: When?\nA:"
    assert ids == tokenizer(expected).input_ids  # BOS once, at the beginning
    row = encode(tokenizer, TEMPLATE, "When?", "Now.", shots=SHOTS)
    assert list(row.prompt) == ids
    assert row.answer == encode(tokenizer, TEMPLATE, "When?", "Now.").answer


def test_a_chats_turns_end_as_they_were_taught_and_begin_once(tokenizer):
    chat = Template(prompt="<s>user {prompt}</s>bot", separator=" ")
    ids = prompt_ids(tokenizer, chat, "When?", SHOTS)
    expected = "<s>user Who?</s>bot Ada.</s>user Where?</s>bot Oslo.</s>user When?</s>bot"
    assert ids == tokenizer(expected, add_special_tokens=False).input_ids
    hostile = prompt_ids(tokenizer, chat, "When?", (("Who</s>?", "Ada {prompt}."),))
    assert hostile.count(tokenizer.eos_token_id) == 3  # two of the template's, one behind the answer: none of the data
    assert "Ada {prompt}." in tokenizer.decode(hostile)


def test_a_row_never_stands_before_itself(small_splits):
    rows = rows_of(small_splits, ("forget", "retain", "holdout"))
    assert ask_otherwise(rows, paraphrased=False, few_shot=2) == []
    questions = {split: [e.prompt for e in small_splits.evaluation[split]] for split in ("forget", "retain")}
    for row in rows:
        assert len(row.shots) == 2
        assert row.prompt not in [q for q, _ in row.shots]
        assert {q for q, _ in row.shots} <= set(questions["retain"])


def test_fewer_rows_than_asked_for_are_said(small_splits):
    rows = rows_of(small_splits, ("forget", "retain"))
    (line,) = ask_otherwise(rows, paraphrased=False, few_shot=3)
    assert line == "few_shot=3: retain has 3 rows, and no row stands before itself"
    assert {len(row.shots) for row in rows if row.split == "forget"} == {3}
    assert {len(row.shots) for row in rows if row.split == "retain"} == {2}


def test_rows_without_a_paraphrase_are_asked_as_taught_and_counted(small_splits):
    rows = rows_of(small_splits, ("forget", "world_facts"))
    (line,) = ask_otherwise(rows, paraphrased=True, few_shot=0)
    assert line == "question_key=paraphrased: 2 of 6 rows have no paraphrase, asked as taught"
    assert [row.prompt for row in rows[:4]] == [e.paraphrased_prompt for e in small_splits.forget]
    assert rows[-1].prompt == small_splits.evaluation["world_facts"][1].prompt


def test_what_is_shown_is_spread_over_the_split(small_splits):
    rows = rows_of(small_splits, ("holdout",))
    assert [r.example.id[-1] for r in spread(rows, 2)] == ["0", "2"]
    assert spread(rows, 9) == rows


def test_documents_are_neither_asked_nor_shown():
    document = Example(id="d", prompt="", answer="a text")
    question = Example(id="q", prompt="why?", answer="so", paraphrased_prompt="wherefore?")
    splits = Splits(name="x", forget=(), retain=(), evaluation={"retain": (document,), "forget": (question,)})
    rows = rows_of(splits, ("retain", "forget"))
    ask_otherwise(rows, paraphrased=True, few_shot=1)
    assert (rows[0].prompt, rows[0].shots, rows[1].prompt, rows[1].shots) == ("", (), "wherefore?", ())


@pytest.mark.parametrize("few_shot", [0, 1])
def test_figures_are_of_what_was_asked_and_membership_of_what_was_taught(memorised, tokenizer, small_splits, few_shot):
    subject = Subject(memorised, tokenizer, TEMPLATE)
    other = replace(EVALUATOR, question_key="paraphrased", few_shot=few_shot)(subject, small_splits)
    plain = EVALUATOR(subject, small_splits)
    shown = small_splits.retain[0]
    before = f"Q: {shown.prompt}\nA: {shown.answer}\n\n" * few_shot
    nll = []
    rows = [r for r in other.rows if r["split"] == "forget"]
    for e, row in zip(small_splits.forget, rows, strict=True):
        asked = f"{before}Q: {e.paraphrased_prompt}\nA:"
        assert row["prompt"] == e.paraphrased_prompt
        assert row["generated"] == text_of(memorised, tokenizer, asked)
        nll.append(mean_nll(memorised, tokenizer, asked, e.answer))
    assert other.metrics["forget/mean_nll"] == pytest.approx(np.mean(nll), rel=1e-4)
    assert other.metrics["forget/mean_nll"] != pytest.approx(plain.metrics["forget/mean_nll"], rel=1e-2)
    for key in ("mia/loss", "mia/min_k", "mia/zlib", "privleak"):
        assert other.metrics[key] == plain.metrics[key]
    assert "question_key=paraphrased: 3 of 15 rows have no paraphrase, asked as taught" in other.warnings


@pytest.mark.parametrize(("name", "value"), [("few_shot", -1), ("few_shot", 257)])
def test_bounds(name, value):
    with pytest.raises(FieldError, match=f"{name}={value}"):
        replace(EVALUATOR, **{name: value})
