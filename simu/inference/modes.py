"""A model as an evaluator wants it: in eval mode, for a while; and the id that padding may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode restored after."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any id does, as padding is known by position: pad, else EOS, else 0."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    return 0


def device_of(model: nn.Module) -> torch.device:
    """Where the model takes its input: the device of its first parameter."""
    return next(model.parameters()).device
