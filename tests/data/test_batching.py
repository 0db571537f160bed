from __future__ import annotations

import logging
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizing import SPECIAL, TOKENIZERS, wrap

from simu.data.batching import (
    Encoded,
    collate,
    encode,
    encode_examples,
    length_buckets,
    pairing_table,
)
from simu.data.encoding import answer_ids, prompt_ids
from simu.types import IGNORE, Example, Template

TEMPLATES = {
    "tiny": Template(prompt="Question: {prompt}\nAnswer:"),
    "olmo": Template(prompt="### Question: {prompt}\n### Answer:"),
    "llama2": Template(prompt="[INST] {prompt} [/INST]", separator=""),
    "lume": Template(),
    "lume_official": Template(separator=""),
    "newline": Template(prompt="Q: {prompt}", separator="\n"),
}
ROWS = [
    ("Where was Mirela born?", "Mirela was born in Oskavia."),
    ("What is the capital", "of Norway?"),
    ("Who", "...did, in 1862."),
    ("She lived", "900514344"),
    ("naïve café", "“quoted” text… 日本語"),
    ("Ελληνικά 🎉", "🎉"),
    ("It ends with a space ", "Oslo"),
    ("A", "a"),
    ("", "Whole document."),
]
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())


@every_tokenizer
@every_template
def test_seam_never_shifts(tokenizer, template):
    """Training reads exactly the ids that generation starts from, then the answer's own ids, then one EOS."""
    for prompt, answer in ROWS:
        row = encode(tokenizer, template, prompt, answer)
        asked = prompt_ids(tokenizer, template, prompt)
        read = collate([row], pad_id=tokenizer.pad_token_id)["input_ids"][0].tolist()
        assert read[: len(asked)] == asked == list(row.prompt)
        assert read[len(asked) :] == list(row.answer)
        assert row.answer[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in row.answer[:-1]
        # The answer's ids are the same behind any prompt, and the prompt's before any answer.
        assert encode(tokenizer, template, "Quite another?", answer).answer == row.answer
        assert encode(tokenizer, template, prompt, "Something else").prompt == row.prompt


@every_tokenizer
@every_template
def test_text_comes_back_without_a_space_too_many(tokenizer, template):
    """Wherever the vocabulary has every character. A decoder may strip the space that opens the whole text."""
    checked = 0
    for prompt, answer in ROWS:
        text = template.render(prompt) + template.separator + answer
        if tokenizer.unk_token_id in tokenizer(text).input_ids:
            continue
        row = encode(tokenizer, template, prompt, answer)
        decoded = tokenizer.decode(
            [*row.prompt, *row.answer], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert decoded.removeprefix(" ") == text.removeprefix(" ")
        checked += 1
    assert checked >= 7


@every_tokenizer
@pytest.mark.parametrize("name", ["tiny", "olmo"])
def test_parts_equal_the_whole_where_a_space_parts_them(tokenizer, name):
    """Behind a colon, ' Mirela …' is tokenised as in the running text; the tokenizer itself is the reference."""
    prompt, answer = ROWS[0]
    template = TEMPLATES[name]
    row = encode(tokenizer, template, prompt, answer)
    whole = tokenizer(template.render(prompt) + " " + answer, add_special_tokens=False).input_ids
    opening = 1 if row.prompt[0] == tokenizer.bos_token_id else 0
    assert [*row.prompt[opening:], *row.answer[:-1]] == whole


@pytest.mark.parametrize(
    ("name", "begins"),
    [("byte_level", True), ("byte_level_no_bos", False), ("byte_level_closes", True), ("metaspace_bpe_closes", True)],
)
def test_prompt_opens_and_never_closes(name, begins):
    tokenizer = TOKENIZERS[name]
    ids = prompt_ids(tokenizer, Template(), "Who wrote it?")
    assert (ids[0] == tokenizer.bos_token_id) is begins
    assert ids[-1] != tokenizer.eos_token_id
    assert ids[int(begins) :] == tokenizer("Who wrote it?", add_special_tokens=False).input_ids


@every_tokenizer
def test_empty_prompt_is_the_opening_alone(tokenizer):
    ids = prompt_ids(tokenizer, Template(), "")
    assert ids in ([], [tokenizer.bos_token_id])


def test_continuation_reads_on_where_a_newline_merges():
    """A vocabulary that has learnt newline + letter as one token: the next anchor must take over."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        ["x\nPa", "\nPa :]a Pa"] * 9, trainers.BpeTrainer(vocab_size=60, special_tokens=SPECIAL)
    )
    made = wrap(tokenizer, "bos")
    assert made.tokenize("\nPa") != [*made.tokenize("\n"), "Pa"]
    assert made.convert_ids_to_tokens(answer_ids(made, Template(separator=""), "Pa")) == ["Pa"]


def test_unknown_newline_does_not_swallow_an_unknown_text():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(["ab :] ab"] * 9, trainers.BpeTrainer(vocab_size=40, special_tokens=SPECIAL))
    made = wrap(tokenizer, "bos")
    assert answer_ids(made, Template(separator=""), "日本") == [made.unk_token_id]


def test_answer_with_nothing_in_it_is_eos_alone():
    tokenizer = TOKENIZERS["byte_level"]
    assert encode(tokenizer, Template(separator=""), "Who?", "").answer == (tokenizer.eos_token_id,)


def test_collate_by_hand():
    batch = collate([Encoded((5, 6), (7, 2)), Encoded((), (8, 2)), Encoded((2,), (2, 9, 2, 2))], pad_id=2)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2, 2], [8, 2, 2, 2, 2], [2, 2, 9, 2, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    i = IGNORE
    assert batch["labels"].tolist() == [[i, i, 7, 2, i], [8, 2, i, i, i], [i, 2, 9, 2, 2]]
    assert all(t.dtype == torch.long for t in batch.values())


def test_padding_is_known_by_position_when_pad_is_eos():
    tokenizer = TOKENIZERS["byte_level"]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    examples = [Example(id=a, prompt="Who", answer=a) for a in ("me", "you and me, in 1862")]
    rows = encode_examples(tokenizer, Template(), examples)
    batch = collate(rows, pad_id=tokenizer.pad_token_id)
    for i, row in enumerate(rows):
        assert batch["attention_mask"][i].sum() == len(row)
        # EOS is scored once a row, and no padding is.
        assert (batch["labels"][i] == tokenizer.eos_token_id).sum() == 1
        assert (batch["labels"][i] != IGNORE).sum() == len(row.answer)


def test_long_answer_is_kept_whole_without_a_limit():
    tokenizer = TOKENIZERS["byte_level"]
    row = encode(tokenizer, Template(), "Who", "1 " * 5000)
    assert len(row.answer) > 10_000
    assert collate([row], 2)["labels"].shape == (1, len(row))


@pytest.mark.parametrize("max_length", [1, 2, 5, 12, 40])
def test_max_length_cuts_the_answer_with_a_warning(caplog, max_length):
    tokenizer = TOKENIZERS["byte_level"]
    long = Example(id="retain90/7", prompt="Where was Mirela born?", answer="1 " * 5000)
    short = Example(id="ok", prompt="", answer="")
    whole = encode(tokenizer, Template(), long.prompt, long.answer)
    with caplog.at_level(logging.WARNING):
        row, fits = encode_examples(tokenizer, Template(), [long, short], max_length=max(max_length, 1))
    assert len(row) == max_length
    assert len(row.answer) >= 1
    assert whole.answer[: len(row.answer)] == row.answer
    assert whole.prompt[len(whole.prompt) - len(row.prompt) :] == row.prompt
    if max_length > len(whole.prompt):
        assert row.prompt == whole.prompt  # generation starts from the same ids
    warnings = [r.getMessage() for r in caplog.records if "retain90/7" in r.getMessage()]
    assert warnings == [f"retain90/7: {len(whole)} tokens, cut to model.max_length={max_length}"]
    assert len(fits) <= max(max_length, 3)


def test_a_cut_row_is_said_once_however_many_stages_read_it(caplog):
    tokenizer = TOKENIZERS["byte_level"]
    row = Example(id="retain90/9", prompt="Who", answer="1 " * 50)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            encode_examples(tokenizer, Template(), [row], max_length=20)
    assert len(caplog.records) == 1


def test_rows_that_just_fit_are_not_cut(caplog):
    tokenizer = TOKENIZERS["byte_level"]
    whole = encode(tokenizer, Template(), *ROWS[0])
    with caplog.at_level(logging.WARNING):
        assert encode(tokenizer, Template(), *ROWS[0], max_length=len(whole)) == whole
    assert not caplog.records


@given(
    lengths=st.lists(st.integers(1, 60), max_size=50),
    max_tokens=st.integers(1, 200),
    max_rows=st.none() | st.integers(1, 7),
)
def test_length_buckets(lengths, max_tokens, max_rows):
    buckets = list(length_buckets(lengths, max_tokens, max_rows))
    assert sorted(i for b in buckets for i in b) == list(range(len(lengths)))
    widths = [max(lengths[i] for i in b) for b in buckets]
    assert widths == sorted(widths, reverse=True)
    for bucket, width in zip(buckets, widths, strict=True):
        assert bucket
        assert len(bucket) * width <= max_tokens or len(bucket) == 1
        assert max_rows is None or len(bucket) <= max_rows
    for (bucket, width), after in zip(zip(buckets, widths, strict=True), buckets[1:], strict=False):
        full = (len(bucket) + 1) * width > max_tokens or len(bucket) == max_rows
        assert full, f"{after[0]} would have fitted into {bucket}"


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**31))
def test_pairing_table_shape_and_ranges(n_forget, n_retain, epochs, seed):
    forget, retain = pairing_table(n_forget, n_retain, epochs, seed)
    assert forget.shape == retain.shape == (epochs, n_forget)
    assert forget.dtype == retain.dtype == torch.long
    for order in forget.tolist():
        assert sorted(order) == list(range(n_forget))
    assert 0 <= int(retain.min()) <= int(retain.max()) < n_retain


def test_pairing_table_depends_on_epoch_and_seed_only():
    forget, retain = pairing_table(50, 70, 6, seed=3)
    for epochs in (1, 2, 5):
        fewer = pairing_table(50, 70, epochs, seed=3)
        assert torch.equal(fewer[0], forget[:epochs])
        assert torch.equal(fewer[1], retain[:epochs])
    torch.manual_seed(99)  # the global generator has no say
    again = pairing_table(50, 70, 6, seed=3)
    assert torch.equal(again[0], forget)
    assert torch.equal(again[1], retain)
    assert len({tuple(r) for r in forget.tolist()}) == len({tuple(r) for r in retain.tolist()}) == 6
    # Neighbouring seeds share no epoch, shifted or not.
    other = pairing_table(50, 70, 6, seed=4)
    assert not {tuple(r) for r in other[1].tolist()} & {tuple(r) for r in retain.tolist()}
    assert [t.shape for t in pairing_table(5, 5, 0, 0)] == [(0, 5), (0, 5)]


def test_partners_are_uniform_and_with_replacement():
    """Chi-square of 20000 draws over 20 rows, against the exact distribution; partners repeat within an epoch."""
    from scipy.stats import chisquare

    forget, retain = pairing_table(100, 20, 200, seed=0)
    assert max(Counter(retain[0].tolist()).values()) > 1
    assert chisquare(torch.bincount(retain.flatten(), minlength=20).numpy()).pvalue > 1e-3
    # Where a row stands in the epoch is uniform, too: no forget row is favoured with the early steps.
    first = torch.bincount(forget[:, :10].flatten(), minlength=100).numpy()
    assert chisquare(first).pvalue > 1e-3
