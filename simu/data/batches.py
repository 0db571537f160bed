"""From examples to the batches that attribution reads: length-sorted rows, template tags, groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from simu.data.batching import collate, encode_examples, pad_id
from simu.data.encoding import prompt_tokens
from simu.types import Example, Template

Tokens = Literal["answer", "template"]
"""Which tokens are scored: answer and EOS, or the template's tags too."""


def attribution_batches(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    examples: Sequence[Example],
    *,
    batch_size: int,
    max_length: int | None = None,
    tokens: Tokens = "answer",
    device: torch.device | str = "cpu",
) -> tuple[list[dict[str, Tensor]], list[str]]:
    """Micro-batches of `batch_size` rows, longest first, and the names of the groups ("" is one) in order.

    A batch has LongTensors [B, T] input_ids, attention_mask, labels (and template, with tokens="template") and
    LongTensor [B] group, an index into the names.
    """
    rows = encode_examples(tokenizer, template, examples, max_length)
    names = sorted({e.group for e in examples})
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    batches: list[dict[str, Tensor]] = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch: dict[str, Tensor] = {**collate([rows[i] for i in chosen], pad_id(tokenizer), device)}  # type: ignore[dict-item]
        batch["group"] = torch.tensor([names.index(examples[i].group) for i in chosen], device=device)
        if tokens == "template":
            batch["template"] = torch.zeros_like(batch["labels"])
            for b, i in enumerate(chosen):
                tags = template_tags(tokenizer, template, examples[i].prompt)[-len(rows[i].prompt) :]
                batch["template"][b, : len(tags)] = torch.tensor(tags, device=device)
        batches.append(batch)
    return batches, names


def template_tags(tokenizer: PreTrainedTokenizerBase, template: Template, prompt: str) -> list[int]:
    """For each token of the rendered prompt, 1 where it holds no character of the prompt itself ("[INST]", BOS …)."""
    start = template.prompt.index("{prompt}")
    end = start + len(prompt)
    return [int(t.end <= start or t.start >= end) for t in prompt_tokens(tokenizer, template, prompt)]
