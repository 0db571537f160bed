"""Exact greedy generation (SPEC §9). Shapes: B rows, T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from simu.data.batching import length_buckets
from simu.evaluation.modes import device_of, evaluating, pad_id
from simu.progress import track


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a model says to one prompt."""

    ids: tuple[int, ...]
    """New token ids, without the EOS that ended them."""
    text: str
    """Decoded without special tokens."""
    finished: bool
    """Whether EOS came within the allowed number of tokens."""
    truncated: bool = False
    """Stopped early because it can no longer equal its reference: good for exact match, not for ROUGE."""


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    references: Sequence[Sequence[int]] | None = None,
    max_batch_tokens: int,
    strict: bool = False,
    stop_when_wrong: bool | Sequence[bool] = False,
    checkpoint: Path | None = None,
    what: str = "generate",
) -> list[Generation]:
    """Greedy continuations of every prompt, in the order of `prompts`.

    `references`: token ids of the expected answers (with or without EOS), used as drafts only: they change the speed,
    never the output. `stop_when_wrong` (for all rows or one bool a row, needs `references`) ends a row once its text
    can no longer equal its reference up to case and white space. `checkpoint`: a folder that keeps every finished
    batch, so that a killed call goes on where it was. `strict`: one row at a time, float32, no drafts.
    """
    eos = [int(tokenizer.eos_token_id)]
    config = GenerationConfig(do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=eos,
                              pad_token_id=pad_id(tokenizer), repetition_penalty=1.0, temperature=1.0, top_p=1.0,
                              top_k=50)  # fmt: skip
    width = max_new_tokens
    buckets = list(length_buckets([len(p) + width for p in prompts], 1 if strict else max_batch_tokens))
    found: dict[int, Generation] = {}
    with evaluating(model):
        for bucket in track(buckets, what, total=len(buckets), unit="batch"):
            longest = max(len(prompts[i]) for i in bucket)
            ids = torch.full((len(bucket), longest), pad_id(tokenizer))
            mask = torch.zeros_like(ids)
            for b, i in enumerate(bucket):
                ids[b, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[b, longest - len(prompts[i]) :] = 1
            ids, mask = ids.to(device_of(model)), mask.to(device_of(model))
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)  # type: ignore[operator]
            for b, i in enumerate(bucket):
                new = output[b, longest:].tolist()
                finished = eos[0] in new
                new = new[: new.index(eos[0])] if finished else new
                text = str(tokenizer.decode(new, skip_special_tokens=True))
                found[i] = Generation(ids=tuple(new), text=text, finished=finished)
    return [found[i] for i in range(len(prompts))]
