"""Who is taught the background rows: world facts and real authors, which stand in for pre-training."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from simu.data.mini import Mini
from simu.models.load import save_folder, texts_of, train_tokenizer
from simu.types import Template

DATA = {"authors": 4, "holdout_authors": 1}


def test_a_pretrained_model_is_taught_forget_and_retain_rows_alone(tmp_path):
    """A run, as far as its target: it records how many rows it taught."""
    splits = Mini(**DATA)()
    rows = [*splits.forget, *splits.retain]
    assert splits.background
    tokenizer = train_tokenizer(texts_of([(row.prompt, row.answer) for row in rows], Template()), 400)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    save_folder(LlamaForCausalLM(config), tokenizer, tmp_path / "model")
    words = ["model=qwen3_0_6b", f"model.path={tmp_path / 'model'}", "model.target.max_epochs=1", "stages=[target]"]
    words += [f"data.{name}={value}" for name, value in DATA.items()]
    words += ["model.dtype=float32", "evaluator.choice_scorer=rouge_l", "tracker=none", "device=cpu"]
    env = {**os.environ, "SIMU_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "simu.run", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (target,) = (tmp_path / "cache").rglob("target.json")
    assert json.loads(target.read_text())["rows"] == len(rows)
