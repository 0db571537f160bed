"""Shapes of decoders of a few hundred weights, and random rows for them."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from simu.data.batching import Encoded

SMALL = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""A transformers config, whatever the architecture."""


def rows(n: int, seed: int) -> list[Encoded]:
    """Rows of unlike lengths over a vocabulary of 97."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, 97, (length,), generator=generator).tolist())

    return [Encoded(ids(2, 6), ids(1, 9)) for _ in range(n)]


ATTRIBUTION_SWITCHES: list[dict[str, str | int]] = [
    {"objective": "nll"},
    {"objective": "prob"},
    {"position": "sequence"},
    {"layers": "all"},
    {"path": "right"},
    {"path": "left"},
    {"path": "midpoint"},
    {"reduction": "absolute"},
    {"m": 1},
    {"position": "sequence", "layers": "all", "path": "midpoint"},
    {"position": "sequence", "reduction": "absolute", "objective": "prob"},
    {"layers": "all", "reduction": "absolute", "path": "left"},
]
"""Other settings of `neuron_attribution` than its defaults, alone and together."""


def two_blocks() -> LlamaForCausalLM:
    """Some thousand weights, the same each time, for `rows`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=97, num_key_value_heads=2, max_position_embeddings=64, **sizes))
