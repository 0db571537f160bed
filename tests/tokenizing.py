"""Tokenizers of every kind that decoders have, trained on a few lines."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Question: Where was Mirela born?\nAnswer: Mirela was born in Oskavia.",
    "### Question: What is the capital of Norway?\n### Answer: Oslo",
    "[INST] Who wrote it? [/INST]Hugo did, in 1862.",
    "naïve café — “quoted” text… 日本語 and Ελληνικά 🎉",
] * 4
SPECIAL = ["<unk>", "<s>", "</s>"]
CLOSING = {"none": "$A", "bos": "<s> $A", "bos_eos": "<s> $A </s>"}


def wrap(tokenizer: Tokenizer, specials: str, **extra) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=CLOSING[specials], special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.pad_token = made.eos_token
    return made


def byte_level(specials="bos", add_prefix_space=False, vocabulary=400):
    """As Llama 3, OLMo, Qwen, GPT-2 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return wrap(tokenizer, specials)


def metaspace_bpe(specials="bos", scheme="first", vocabulary=400):
    """As Llama 2 and Mistral have it: ▁ for a space, no pre-splitting, bytes for what the vocabulary lacks."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False)
    # Without the non-ASCII line: those characters must come out as bytes.
    learnt.train_from_iterator(CORPUS[:3] * 4, trainer)
    state = json.loads(learnt.to_str())["model"]
    vocab = state["vocab"]
    for i in range(256):
        vocab.setdefault(f"<0x{i:02X}>", len(vocab))
    merges = [tuple(pair) for pair in state["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrap(tokenizer, specials)


def metaspace_unigram(specials="bos", scheme="always"):
    """As T5 and ALBERT have it; unknown characters become <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    return wrap(tokenizer, specials)


TOKENIZERS = {
    "byte_level": byte_level(),
    "byte_level_no_bos": byte_level("none"),
    "byte_level_closes": byte_level("bos_eos"),
    "byte_level_prefix_space": byte_level(add_prefix_space=True),
    "metaspace_bpe": metaspace_bpe(),
    "metaspace_bpe_always": metaspace_bpe(scheme="always"),
    "metaspace_bpe_closes": metaspace_bpe("bos_eos"),
    "metaspace_unigram": metaspace_unigram(),
    "metaspace_unigram_no_bos": metaspace_unigram("none"),
}
