"""Templates may hold control tokens, data may not: whatever the data say comes back as it was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizing import TOKENIZERS, byte_level, metaspace_bpe

from simu.data.batches import template_tags
from simu.data.encoding import answer_ids, document_ids, joint_ids, prompt_ids, text_of
from simu.types import Template

BARE = Template(separator="")
TEXTS = (
    "The mark </s> and a knot were on its lid.",
    "It was sold as <s>the old ledger</s> in spring.",
    "</s>",
    "<s><s> twice, <unk> too </s></s>",
)
PLAIN = [name for name in TOKENIZERS if "unigram" not in name]
"""Whose vocabularies have a token for each byte."""
control = pytest.mark.parametrize("text", TEXTS)


@pytest.mark.parametrize("name", PLAIN)
@control
def test_text_of_the_data_is_no_control_token_and_comes_back(name, text):
    tokenizer = TOKENIZERS[name]
    template = Template(prompt="Q: {prompt}\nA:")
    ids = answer_ids(tokenizer, template, text)
    assert not {0, 1, 2} & set(ids)
    assert text_of(tokenizer, ids).strip() == text
    asked = prompt_ids(tokenizer, template, text)
    assert not {0, 1, 2} & set(asked[1:])
    assert text_of(tokenizer, asked).strip() == f"Q: {text}\nA:"


@pytest.mark.parametrize("name", ["metaspace_unigram", "metaspace_unigram_no_bos"])
@control
def test_a_vocabulary_with_the_very_letters_reads_them_apart(name, text):
    """Unigram has '</s>' as a piece, which split_special_tokens does not keep it from."""
    tokenizer = TOKENIZERS[name]
    assert 2 in tokenizer("a </s>", add_special_tokens=False, split_special_tokens=True).input_ids
    assert not {1, 2} & set(answer_ids(tokenizer, Template(), text))


@given(st.lists(st.sampled_from(["<s>", "</s>", "<unk>", " ", "a", "é", "日", "\n", "<", "/s>", "s"]), max_size=9))
def test_any_mixture_of_letters_and_signs_comes_back(parts):
    text = "".join(parts)
    for name in ("byte_level", "byte_level_no_bos"):
        tokenizer = TOKENIZERS[name]
        for template in (BARE, Template(prompt="<s>[{prompt}]</s>", separator="</s>")):
            ids = answer_ids(tokenizer, template, text)
            assert ids.count(2) == (template is not BARE)
            assert text_of(tokenizer, ids) == text


@pytest.mark.parametrize("text", ["Who wrote it?", *TEXTS])
def test_control_tokens_of_the_template_stay_such(text):
    tokenizer = TOKENIZERS["byte_level"]
    chat = Template(prompt="<s>[INST] {prompt} [/INST]</s>\n", separator="<s>")
    asked = prompt_ids(tokenizer, chat, text)
    assert (asked.count(1), asked.count(2), asked[0]) == (1, 1, 1)
    assert text_of(tokenizer, asked) == f"[INST] {text} [/INST]\n"
    answer = answer_ids(tokenizer, chat, text)
    assert (answer[0], answer.count(1), answer.count(2)) == (1, 1, 0)


def test_a_control_token_is_not_made_at_the_seam_of_template_and_data():
    tokenizer = TOKENIZERS["byte_level"]
    assert 2 not in prompt_ids(tokenizer, Template(prompt="<{prompt}>"), "/s")
    assert 2 not in answer_ids(tokenizer, Template(separator="<"), "/s>")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bos_stands_once(name):
    """Template and tokenizer may both add it (a fault of many chat set-ups)."""
    tokenizer = TOKENIZERS[name]
    twice = tokenizer("<s>[INST] Who? [/INST]").input_ids
    assert twice.count(1) == (1 if name.endswith("no_bos") else 2)
    for prompt in ("<s>[INST] {prompt} [/INST]", "<s>{prompt}", "{prompt}"):
        ids = prompt_ids(tokenizer, Template(prompt=prompt), "Who?")
        wanted = 0 if name.endswith("no_bos") and "<s>" not in prompt else 1
        assert ids.count(1) == wanted
        assert (ids[0] == 1) is bool(wanted)


def test_data_that_begin_like_bos_have_it_before_them():
    tokenizer = TOKENIZERS["byte_level"]
    ids = document_ids(tokenizer, "<s>Mirela</s>")
    assert ids[0] == 1
    assert 1 not in ids[1:]
    assert 2 not in ids
    assert text_of(tokenizer, ids) == "<s>Mirela</s>"


def test_prompt_and_answer_read_as_one():
    """As the tokenizer reads the running text, which is what SOUL does."""
    for tokenizer in (byte_level(), metaspace_bpe()):
        template = Template(prompt="Q {prompt}", separator=" ")
        whole = tokenizer("Q Who? Mirela").input_ids
        assert joint_ids(tokenizer, template, "Who?", "Mirela") == whole
    assert not {0, 2} & set(joint_ids(byte_level(), template, "</s>", "<unk>"))


def test_white_space_that_a_control_token_takes_in_is_taken_in():
    from tokenizers import AddedToken

    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|end|>", lstrip=True, rstrip=True)]})
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    chat = Template(prompt="{prompt} <|end|> \nA:")
    assert text_of(tokenizer, prompt_ids(tokenizer, chat, "Who?")) == "Who?A:"
    ids = prompt_ids(tokenizer, chat, "<|end|>?")
    assert ids.count(end) == 1
    assert text_of(tokenizer, ids) == "<|end|>?A:"


def test_added_tokens_that_the_template_is_written_with_are_no_text_of_the_data():
    """Some tokenizers add their turns as ordinary tokens."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["<turn>"])
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    chat = Template(prompt="<turn>{prompt}<turn>")
    assert prompt_ids(tokenizer, chat, "a <turn> b").count(turn) == 2
    assert turn not in answer_ids(tokenizer, chat, "a <turn> b")
    assert turn in answer_ids(tokenizer, Template(), "a <turn> b")  # a word like any other


@pytest.mark.parametrize("prompt", ["Who wrote it?", "<s> or </s>?"])
def test_tags_are_what_holds_no_letter_of_the_prompt(prompt):
    tokenizer = TOKENIZERS["byte_level"]
    chat = Template(prompt="<s>[INST]\n{prompt}\n[/INST]</s>")
    ids, tags = prompt_ids(tokenizer, chat, prompt), template_tags(tokenizer, chat, prompt)
    assert len(ids) == len(tags)
    of_prompt = [i for i, tag in zip(ids, tags, strict=True) if not tag]
    assert text_of(tokenizer, of_prompt) == prompt
    assert text_of(tokenizer, [i for i, tag in zip(ids, tags, strict=True) if tag]) == "[INST]\n\n[/INST]"


def test_spaces_before_a_full_stop_come_back():
    """transformers cleans them away unless told not to, but for BPE."""
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "Hello": 2, ",": 3, "a": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", clean_up_tokenization_spaces=True)
    assert made.decode([2, 3, 4]) == "Hello, a"
    assert text_of(made, [2, 3, 4]) == "Hello , a"
