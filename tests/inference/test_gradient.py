"""Gradient norms against a backward of each row."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from simu.data.batching import Encoded
from simu.inference.gradient import gradient_norms

ROWS = [Encoded((5, 6, 7), (8, 9)), Encoded((1,), (2, 3, 4, 5))]


def by_hand(model, row: Encoded) -> float:
    model.zero_grad()
    ids = torch.tensor([row.prompt + row.answer])
    logits = model(ids).logits[0, len(row.prompt) - 1 : -1]
    cross_entropy(logits, torch.tensor(row.answer)).backward()
    return float(torch.stack([p.grad.norm() for p in model.parameters()]).mean())


def test_norms_equal_a_backward_of_each_row_and_leave_the_model_as_it_was(tiny_llama):
    tiny_llama.lm_head.weight.requires_grad_(False)
    found = gradient_norms(tiny_llama, ROWS, pad_id=0)
    assert not tiny_llama.lm_head.weight.requires_grad
    assert all(p.grad is None for p in tiny_llama.parameters())
    tiny_llama.lm_head.weight.requires_grad_(True)
    assert found == pytest.approx([by_hand(tiny_llama, row) for row in ROWS], rel=1e-5)


def test_a_row_without_an_answer_has_no_gradient(tiny_llama):
    assert gradient_norms(tiny_llama, [Encoded((5, 6), ())], pad_id=0) == [0.0]
