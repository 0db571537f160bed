"""The definition that fast generation is held to: transformers' own greedy `generate`, one row at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import GenerationConfig

from simu.inference.modes import device_of


def one_row(
    model: nn.Module, prompt: Sequence[int], max_new_tokens: int, eos: frozenset[int], pad: int
) -> tuple[list[int], bool]:
    """New token ids behind one prompt, without EOS, and whether EOS came.

    Plain argmax: whatever the checkpoint's generation config adds (sampling, penalties, suppressed tokens) is left out.
    """
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(eos) or None, pad_token_id=pad
    )
    ids = torch.tensor([list(prompt)], device=device_of(model))
    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[assignment]
    try:
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)  # type: ignore[operator]
    finally:
        model.generation_config = own
    new = output[0, ids.shape[1] :].tolist()
    finished = bool(new) and new[-1] in eos
    return (new[:-1] if finished else new), finished


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers of half precision are float32 inside, and what they were after (exactly: bf16 and fp16
    are subsets of float32)."""
    halves = [
        (t, t.data.dtype) for t in (*model.parameters(), *model.buffers()) if t.dtype in (torch.half, torch.bfloat16)
    ]
    for tensor, _ in halves:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in halves:
            tensor.data = tensor.data.to(dtype)
