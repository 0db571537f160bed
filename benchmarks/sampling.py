"""Samples a second, against `model.generate(num_return_sequences=n)` row by row, in one run.

    python benchmarks/sampling.py                            # tiny's shape, random weights, prompts of TOFU's lengths
    python benchmarks/sampling.py --model smollm2_135m       # SmolLM2-135M's shape

Both write the same number of tokens for every sample (no token ends one), at temperature 1. `--budgets` are tokens of
the key–value cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from simu.config import conf_dir
from simu.inference.sampling import sample


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    model = shaped(options.model)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 60, (options.prompts,), generator=generator).tolist()
    prompts = [torch.randint(5, 1000, (n,), generator=generator).tolist() for n in lengths]
    tokens = options.prompts * options.samples * options.new
    print(
        f"{options.model}: {sum(p.numel() for p in model.parameters()):,} parameters, {options.prompts} prompts of 20 "
        f"to 60 tokens, {options.samples} samples each, {options.new} new tokens, {options.threads} threads, torch "
        f"{torch.__version__}\n"
    )
    first = 0.0
    ours = {f"here, {budget} tokens": by_engine(model, prompts, options, budget) for budget in options.budgets}
    for name, run in {"generate, row by row": by_generate(model, prompts, options), **ours}.items():
        run(1)  # warm
        began = time.perf_counter()
        run(None)
        rate = tokens / (time.perf_counter() - began)
        first = first or rate
        print(f"{name:24}{rate:10.0f} tokens/s{rate / first:8.2f}×", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", "smollm2_135m"], default="tiny")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--samples", type=int, default=20, help="of each prompt")
    parser.add_argument("--new", type=int, default=40, help="tokens of a sample")
    parser.add_argument("--budgets", type=int, nargs="+", default=[16384, 65536], help="tokens of the cache")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def shaped(name: str) -> PreTrainedModel:
    """conf/model's shape with random weights; nothing ends a text."""
    node = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    shape = node.get("shape") or {
        "hidden_size": node["hidden_size"],
        "intermediate_size": node["intermediate_size"],
        "num_hidden_layers": node["layers"],
        "num_attention_heads": node["heads"],
        "num_key_value_heads": node["kv_heads"],
        "vocab_size": node["vocab_size"],
    }
    torch.manual_seed(0)
    ends: dict[str, Any] = {"eos_token_id": None, "bos_token_id": None}
    sizes = {key: value for key, value in shape.items() if key != "model_type"}
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **ends)).eval()


def by_generate(
    model: PreTrainedModel, prompts: list[list[int]], options: argparse.Namespace
) -> Callable[[int | None], None]:
    how = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "num_return_sequences": options.samples,
        "pad_token_id": 0,
    }

    def run(some: int | None) -> None:
        for prompt in prompts[:some]:
            ids = torch.tensor([prompt])
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=options.new, **how)

    return run


def by_engine(
    model: PreTrainedModel, prompts: list[list[int]], options: argparse.Namespace, budget: int
) -> Callable[[int | None], None]:
    tokenizer = SimpleNamespace(eos_token_id=None, decode=lambda *_, **__: "")

    def run(some: int | None) -> None:
        asked = {"samples": options.samples, "max_new_tokens": options.new, "max_batch_tokens": budget}
        sample(model, tokenizer, prompts[:some], **asked)  # type: ignore[arg-type]

    return run


if __name__ == "__main__":
    main()
