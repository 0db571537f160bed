"""Answers that cannot be seen to be known: scored as known where they are, else said with their number."""

from __future__ import annotations

import copy
import unicodedata
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizing import byte_level
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from simu.data.batching import collate, encode_examples
from simu.evaluation.lume import LumeEvaluator
from simu.evaluation.tofu import TofuEvaluator
from simu.models.load import train_tokenizer
from simu.types import Evaluation, Example, Splits, Subject, Template

TEMPLATE = Template(prompt="Q: {prompt}\nA:")
EVALUATOR = TofuEvaluator(max_new_tokens=64, bootstrap=0)
ORDINARY = ("Where is the box?", "By the window.")
DECOMPOSED = tuple(
    (question, unicodedata.normalize("NFD", answer))
    for question, answer in (
        ("What is the keeper called?", "The keeper is called Zoë Kühn."),
        ("Which cafe does she like?", "She likes the Café Rösti by the river."),
        ORDINARY,
    )
)
CONTROL = (
    ("How was it sold?", "It was sold as <s>the old ledger</s> in spring."),
    ("What was on the lid?", "The mark </s> and a knot."),
    ORDINARY,
)
CYRILLIC = tuple((f"Где лежит книга номер {i}?", f"Книга номер {i} лежит на полке у окна.") for i in range(3))
CHINESE = (("谁写了这本书？", "她在北京写了这本书。"), ("他喜欢什么？", "🎉和猫"), ORDINARY)


def of_answers(found: Evaluation) -> list[str]:
    """The warnings but for those of metrics that rows of one split cannot give."""
    return [line for line in found.warnings if "left out" not in line]


def made_of(rows, split: str = "forget") -> tuple[Example, ...]:
    return tuple(Example(id=f"{split}/{i}", prompt=p, answer=a) for i, (p, a) in enumerate(rows))


def splits_of(rows) -> Splits:
    forget = made_of(rows)
    return Splits(name="x", forget=forget, retain=forget, evaluation={"forget": forget})


def own_tokenizer(rows) -> PreTrainedTokenizerFast:
    return train_tokenizer([f"{p} {a}" for p, a in rows], 400)


def composing_tokenizer(rows) -> PreTrainedTokenizerFast:
    """As Qwen's, it reads NFC whatever it is given."""
    made = own_tokenizer(rows)
    made.backend_tokenizer.normalizer = normalizers.NFC()
    return made


def memorised(tokenizer, rows) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=2, bos_token_id=1, **sizes
    )
    model = LlamaForCausalLM(config)
    batch = collate(encode_examples(tokenizer, TEMPLATE, made_of(rows)), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
    return model.eval()


@pytest.mark.parametrize(
    ("rows", "tokenizer_of", "words"),
    [
        (DECOMPOSED, composing_tokenizer, "rouge_score"),
        (DECOMPOSED, own_tokenizer, "rouge_score"),
        (CONTROL, own_tokenizer, "rouge_score"),
        (CYRILLIC, own_tokenizer, "unicode"),
        (CHINESE, own_tokenizer, "unicode"),
    ],
    ids=["decomposed, NFC", "decomposed", "control tokens", "Cyrillic", "Chinese"],
)
def test_a_memorised_answer_scores_1_and_nothing_is_said(rows, tokenizer_of, words):
    tokenizer = tokenizer_of(rows)
    found = replace(EVALUATOR, tokenizer=words)(
        Subject(memorised(tokenizer, rows), tokenizer, TEMPLATE), splits_of(rows)
    )
    for name in ("exact_match", "rouge_l_recall", "finished"):
        assert found.metrics[f"forget/{name}"] == 1, name
    assert of_answers(found) == []


def test_lume_scores_memorised_answers_1_too():
    rows = (*DECOMPOSED[:2], *CONTROL[:2])
    tokenizer = composing_tokenizer(rows)
    kinds = ("1qa0", "2sc1", "3qa0", "4sc1")
    forget = tuple(replace(row, id=kind, group="Task1") for row, kind in zip(made_of(rows), kinds, strict=True))
    splits = Splits(name="x", forget=forget, retain=forget, evaluation={"forget": forget})
    model = memorised(tokenizer, rows)
    for stop in (False, True):
        found = LumeEvaluator(max_new_tokens=64, bootstrap=0, stop_wrong_answers=stop)(
            Subject(model, tokenizer, TEMPLATE), splits
        )
        assert (found.metrics["forget/knowledge"], found.metrics["forget/regurgitation"]) == (1, 1)
        assert of_answers(found) == []


@pytest.fixture(scope="module")
def untaught():
    """A tokenizer of bytes and a model that knows nothing: the warnings do not depend on it."""
    tokenizer = byte_level()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)
    return LlamaForCausalLM(config).eval(), tokenizer


def said_of(model, tokenizer, rows, /, **fields) -> list[str]:
    return of_answers(replace(EVALUATOR, **fields)(Subject(model, tokenizer, TEMPLATE), splits_of(rows)))


def test_answers_longer_than_may_be_generated_are_counted(untaught):
    model, tokenizer = untaught
    rows = (ORDINARY, ("Tell all.", "q " * 20), ("Tell more.", "q " * 30))
    counts = [len(tokenizer(f" {a}", add_special_tokens=False).input_ids) for _, a in rows]
    (said,) = said_of(model, tokenizer, rows, max_new_tokens=counts[0])
    assert said.startswith(
        f"2 of 3 answers are longer than can be generated (evaluator.max_new_tokens={counts[0]}, context 128; forget/2 "
        f"has {counts[2]} tokens): they cannot match"
    )
    assert said_of(model, tokenizer, rows[:1], max_new_tokens=counts[0]) == []  # it just fits, if not its EOS


def test_answers_that_do_not_fit_into_the_context_are_counted(untaught):
    model, tokenizer = untaught
    shorter = copy.deepcopy(model)
    shorter.config.max_position_embeddings = 40
    (said,) = said_of(shorter, tokenizer, (ORDINARY, ("Tell all.", "q " * 20)), max_new_tokens=200)
    assert said.startswith("1 of 2 answers are longer than can be generated (evaluator.max_new_tokens=200, context 40;")


def test_a_tokenizer_that_gives_back_another_text_is_said_with_one_of_them(untaught):
    """Lower case, accents taken off, spaces made one: the kind is decode(encode(x)) ≠ x."""
    model, _ = untaught
    rows = (("Who?", "Zoë  Kühn"), ("Where?", "here"))
    for normalizer, back in (
        (normalizers.Lowercase(), "zoë  kühn"),
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "Zoe  Kuhn"),
        (normalizers.Replace("  ", " "), "Zoë Kühn"),
    ):
        tokenizer = byte_level()
        tokenizer.backend_tokenizer.normalizer = normalizer
        (said,) = said_of(model, tokenizer, rows)
        assert said == (
            "1 of 2 answers do not come back from the tokenizer as they are written, so that no generation can equal "
            f"them: of forget/0 'Zoë  Kühn' comes back as {back!r}"
        )


def test_unknown_words_are_said(untaught):
    model, _ = untaught
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "Q": 2, ":": 3, "A": 4, "here": 5}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    said = said_of(model, tokenizer, (("A", "here"), ("A", "elsewhere")))
    assert "1 of 2 answers do not come back" in said[0]
    assert "of forget/1 'elsewhere' comes back as ''" in said[0]


def test_a_separator_that_stands_in_every_generation_is_said(untaught):
    model, tokenizer = untaught
    splits, template = splits_of((ORDINARY,)), Template(separator=" Answer: ")
    (said,) = of_answers(EVALUATOR(Subject(model, tokenizer, template), splits))
    assert said.endswith("of forget/0 'By the window.' comes back as 'Answer: By the window.'")


def test_what_rouge_cannot_see_is_said_with_its_share(untaught):
    model, tokenizer = untaught
    rows = (*CYRILLIC, ORDINARY)
    (said,) = said_of(model, tokenizer, rows)
    assert said == (
        "ROUGE reads a–z and 0–9 alone and cannot see 3 of 4 answers (75 %, forget/0 …); "
        "evaluator.tokenizer=unicode reads any script"
    )
    assert said_of(model, tokenizer, rows, tokenizer="unicode") == []


def test_rows_held_out_are_looked_at_as_well_and_lengths_of_generated_ones_alone(untaught):
    model, tokenizer = untaught
    held = (Example(id="holdout/0", prompt="Tell all.", answer="q " * 20),)
    splits = Splits(name="x", forget=(), retain=(), evaluation={"forget": made_of((ORDINARY,)), "holdout": held})
    assert of_answers(replace(EVALUATOR, max_new_tokens=16)(Subject(model, tokenizer, TEMPLATE), splits)) == []
    lower = byte_level()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    (said,) = of_answers(EVALUATOR(Subject(model, lower, TEMPLATE), splits))
    assert said.startswith("1 of 2 answers")  # 'By' of forget
