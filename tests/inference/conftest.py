"""What the engine is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel


@pytest.fixture(scope="session")
def official() -> Callable[[PreTrainedModel, Sequence[Sequence[int]], int], list[list[int]]]:
    """New token ids (EOS, 2, included) of each prompt: transformers' greedy `generate`, one row at a time."""

    def generated(model: PreTrainedModel, prompts: Sequence[Sequence[int]], new: int) -> list[list[int]]:
        config = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=2, pad_token_id=0)
        found = []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
            found.append(output[0, len(prompt) :].tolist())
        return found

    return generated
