"""Shared fixtures. Everything is offline; the real TOFU and LUME rows are read in place where they are to be had."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are the parallelism

DATA_DIR = Path(os.environ.get("SIMU_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def tofu_dir() -> Path:
    if not (DATA_DIR / "tofu").is_dir():
        pytest.skip(f"no TOFU rows in {DATA_DIR}/tofu (set SIMU_DATA_DIR)")
    return DATA_DIR / "tofu"


@pytest.fixture(scope="session")
def lume_dir() -> Path:
    if not (DATA_DIR / "lume").is_dir():
        pytest.skip(f"no LUME rows in {DATA_DIR}/lume (set SIMU_DATA_DIR)")
    return DATA_DIR / "lume"


@pytest.fixture
def tiny_llama():
    """A random two-layer LLaMA with grouped-query attention, float64, eager attention, vocabulary 97."""
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
    return LlamaForCausalLM(config).double().eval()
