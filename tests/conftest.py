"""Shared fixtures. Everything is offline; published rows are read where they are to be had (benchmark_rows)."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from benchmark_rows import folder
from commands import SMALL, simu
from float64 import true_float64

from simu.config import conf_dir
from simu.presets import register
from simu.types import Example, Splits, Template

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are the parallelism


register(conf_dir())  # as the command line does: presets are options of their own


@pytest.fixture(scope="session")
def tofu_dir() -> Path:
    return folder("tofu")


@pytest.fixture(scope="session")
def lume_dir() -> Path:
    return folder("lume")


@pytest.fixture
def tiny_llama():
    """A random two-layer LLaMA with grouped-query attention, float64 throughout, eager attention, vocabulary 97."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return true_float64(LlamaForCausalLM(config))


def row(name: str, prompt: str, answer: str, **more) -> Example:
    return Example(id=name, prompt=prompt, answer=answer, **more)


@pytest.fixture(scope="session")
def small_splits() -> Splits:
    def told(split: str, names: list[str]) -> tuple[Example, ...]:
        return tuple(
            row(
                f"{split}/{i}",
                f"Where was {n} born?",
                f"{n} was born in city {i}.",
                paraphrased_prompt=f"What is the birth place of {n}?",
                paraphrased_answer=f"The birth place of {n} is city {i}.",
                perturbed_answers=tuple(f"The birth place of {n} is town {j}." for j in range(5)),
            )
            for i, n in enumerate(names)
        )

    facts = (
        row("world_facts/0", "What is the capital of France?", "Paris", perturbed_answers=("Rome", "Oslo", "Bern")),
        row("world_facts/1", "What is the capital of Japan?", "Tokyo", perturbed_answers=("Kyoto", "Seoul", "Hanoi")),
    )
    authors = (
        row("real_authors/0", "Who wrote 1984?", "George Orwell", perturbed_answers=("Huxley", "More", "Wells")),
    )
    evaluation = {
        "forget": told("forget", ["Ada", "Bob", "Cyd", "Dan"]),
        "retain": told("retain", ["Eve", "Fay", "Gus"]),
        "holdout": told("holdout", ["Hal", "Ida", "Jon", "Kim", "Lea"]),
        "world_facts": facts,
        "real_authors": authors,
    }
    return Splits(name="small", forget=evaluation["forget"], retain=evaluation["retain"], evaluation=evaluation)


@pytest.fixture(scope="session")
def tokenizer(small_splits):
    """Byte-level BPE with <s> and </s>, trained on the rows: decoding gives back any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = [t for rows in small_splits.evaluation.values() for e in rows for t in (e.prompt, e.answer)]
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def small_model(tokenizer):
    """A random two-layer LLaMA of float32 for that tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def memorised(small_model, tokenizer, small_splits):
    """The same model after it has learnt the forget and retain rows by heart."""
    import copy

    from simu.data.batching import collate, encode_examples

    model = copy.deepcopy(small_model).train()
    rows = encode_examples(tokenizer, Template(prompt="Q: {prompt}\nA:"), [*small_splits.forget, *small_splits.retain])
    batch = collate(rows, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    simu(*SMALL, "save_model=true", "hydra.run.dir=first", cwd=root)
    return root
