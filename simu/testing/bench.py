"""Small random models and batches, the same on every machine; what a call must leave as it was. B rows, T tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from simu.types import IGNORE, Batch

LAYERS, WIDTH, VOCABULARY = 2, 16, 61


def small_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A random GPT-NeoX, which computes in `dtype` throughout (LLaMA's norm is float32 whatever the model's type).

    Weights are larger than usual, so that two rows, two tokens and two layers differ well above rounding.
    """
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = GPTNeoXForCausalLM(config)
        return cast(PreTrainedModel, model.to(dtype).eval())


def small_rows(seed: int = 0, count: int = 4) -> Batch:
    """LongTensors [B, T]: rows of different lengths, a few prompt tokens and then what is labelled, right-padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [(2 + i % 3, 3 + (2 * i) % 5) for i in range(count)]
    total = max(prompt + answer for prompt, answer in lengths)
    ids = torch.randint(2, VOCABULARY, (count, total), generator=generator)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for i, (prompt, answer) in enumerate(lengths):
        mask[i, : prompt + answer] = 1
        labels[i, prompt : prompt + answer] = ids[i, prompt : prompt + answer]
    return Batch(input_ids=ids * mask, attention_mask=mask, labels=labels)


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some of its rows, in that order."""
    tensors = cast(dict[str, Tensor], batch)
    return cast(Batch, {name: tensor[list(rows)] for name, tensor in tensors.items()})


def with_more_padding(batch: Batch, width: int = 3) -> Batch:
    """The same rows with columns of tokens that nothing attends to and nothing scores."""
    rows = len(batch["labels"])
    return Batch(
        input_ids=torch.cat([batch["input_ids"], torch.full((rows, width), 7)], dim=1),
        attention_mask=torch.cat([batch["attention_mask"], torch.zeros(rows, width, dtype=torch.long)], dim=1),
        labels=torch.cat([batch["labels"], torch.full((rows, width), IGNORE)], dim=1),
    )


def close(a: Tensor | float, b: Tensor | float, tolerance: float = 1e-5) -> bool:
    """Within `tolerance` of the larger one's size."""
    x, y = torch.as_tensor(a).detach().double(), torch.as_tensor(b).detach().double()
    return x.shape == y.shape and bool((x - y).abs().max() <= tolerance * max(1e-9, float(y.abs().max())))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Raise AssertionError where the body changed the model or drew from a global random generator."""
    torch.rand(1), random.random(), np.random.rand()  # what seeds a generator leaves the same state each time
    before = _state(model)
    yield
    for what, value in _state(model).items():
        assert _equal(before[what], value), f"the call changed {what}; put back what it touches, in a finally"


def _state(model: nn.Module) -> dict[str, Any]:
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    return {
        "the model's weights": {n: t.detach().clone() for n, t in model.state_dict().items()},
        "which weights require a gradient": {n: p.requires_grad for n, p in parameters.items()},
        "the weights' .grad": {n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()},
        "the model's mode (train, eval)": {n: m.training for n, m in modules.items()},
        "the model's hooks": {n: [len(getattr(m, h)) for h in HOOKS] for n, m in modules.items()},
        "the model's modules": {n: (type(m), "forward" in vars(m)) for n, m in modules.items()},
        "torch's random state (draw from a Generator of its own)": {"": torch.get_rng_state()},
        "Python's random state (draw from a random.Random of its own)": {"": random.getstate()},
        "numpy's random state (draw from a default_rng of its own)": {"": repr(np.random.get_state())},
    }


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        x.equal(b[name]) if isinstance(x, Tensor) and isinstance(b[name], Tensor) else x is b[name] or x == b[name]
        for name, x in a.items()
    )
