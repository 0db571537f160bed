"""Peak memory of a step, counted by the allocator: what selected-row training is for."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from simu.data.batching import Encoded


def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "unlearning_step.py"
    spec = importlib.util.spec_from_file_location("unlearning_step", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


def rows(n: int, seed: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, 1000, (length,), generator=generator).tolist())

    return [Encoded(ids(10, 20), ids(15, 50)) for _ in range(n)]


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, int]]:
    step = benchmark()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1000,
            hidden_size=64,
            intermediate_size=172,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
        )
    )
    options = argparse.Namespace(batch=8, micro=4, tokens=256, share=0.05, steps=1)
    batches = step.pairs(rows(16, 1), rows(16, 2), 8, 2)
    result = {}
    for make in step.variants(model, options, 0, "cpu"):
        variant = make()
        variant.step(*batches[0])  # moments exist from here on
        result[variant.name.strip()] = step.memory(variant, batches, "cpu")
    return result


def test_optimizer_state_is_for_what_trains_alone(measured):
    n_attention, n_rows = 4 * 4 * 64 * 64, 4 * int(0.05 * 64) * 172
    assert measured["SIMU"]["state"] == 2 * 4 * (n_attention + n_rows)
    n_all = 2 * 1000 * 64 + 4 * (4 * 64 * 64 + 3 * 64 * 172 + 2 * 64) + 64
    assert measured["reference Sophia"]["state"] == measured["SO"]["state"] == 2 * 4 * n_all


def test_peak_is_little_more_than_half_of_the_dense_reference_at_most(measured):
    assert measured["SIMU"]["peak"] <= 0.55 * measured["reference Sophia"]["peak"]
    assert measured["all rows at once"]["peak"] <= 0.55 * measured["reference Sophia"]["peak"]
    assert measured["SO"]["peak"] < measured["reference Sophia"]["peak"]
