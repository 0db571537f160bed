"""Fewer bits and fewer numbers, against hand computation and brute force."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from simu.robustness.weights import NF4, linear_weights, pruned, rounded


def weights(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("columns", [64, 100, 7])
def test_int8_is_within_half_a_step_of_each_group(columns):
    w = weights(5, columns)
    found = rounded(w, "int8", 64)
    for start in range(0, columns, 64):
        part, q = w[:, start : start + 64], found[:, start : start + 64]
        step = part.abs().amax(1, keepdim=True) / 127
        assert ((part - q).abs() <= step / 2 + 1e-6).all()
        multiple = q / step
        torch.testing.assert_close(multiple, multiple.round(), rtol=0, atol=1e-3)
        assert multiple.abs().max() == pytest.approx(127, abs=1e-3)


def test_nf4_takes_the_nearest_of_its_levels():
    w = weights(3, 96, seed=1)
    found = rounded(w, "nf4", 32)
    for row in range(3):
        for start in range(0, 96, 32):
            part = w[row, start : start + 32]
            levels = torch.tensor(NF4) * part.abs().max()
            for value, q in zip(part, found[row, start : start + 32], strict=True):
                assert float((q - value).abs()) == pytest.approx(float((levels - value).abs().min()), abs=1e-6)
    assert len(set(NF4)) == 16
    assert tuple(sorted(NF4)) == NF4


def test_by_hand_and_zeros_and_precision_stay():
    w = torch.tensor([[127.0, -1.4, 0.6, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert rounded(w, "int8", 4).tolist() == [[127.0, -1.0, 1.0, 0.0], [0.0] * 4]
    assert rounded(w, "nf4", 4)[1].tolist() == [0.0] * 4
    assert rounded(w.bfloat16(), "nf4", 4).dtype == torch.bfloat16
    again = rounded(weights(4, 64), "int8", 64)
    torch.testing.assert_close(rounded(again, "int8", 64), again, rtol=1e-6, atol=0)


def test_the_smallest_magnitudes_go():
    w = torch.tensor([[0.1, -3.0, 0.2], [-0.3, 0.2, 5.0]])
    assert torch.equal(pruned(w, 0.34), torch.tensor([[0.0, -3.0, 0.0], [-0.3, 0.2, 5.0]]))  # of equal ones the first
    assert torch.equal(pruned(w, 0.5), torch.tensor([[0.0, -3.0, 0.0], [-0.3, 0.0, 5.0]]))
    assert torch.equal(pruned(w, 0.0), w)
    assert not pruned(w, 1.0).any()
    assert w[0, 0] == pytest.approx(0.1)


def test_linear_layers_of_the_blocks_alone_as_outputs_by_inputs():
    sizes = {"vocab_size": 30, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 20, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(**sizes))
    found = linear_weights(model)
    assert [tuple(w.shape) for w in found[:4]] == [(24, 8), (8, 8), (20, 8), (8, 20)]
    assert len(found) == 8
    before = model.transformer.h[0].mlp.c_fc.weight.detach().clone()
    found[2].data.copy_(rounded(found[2].data, "int8", 8))
    after = model.transformer.h[0].mlp.c_fc.weight  # Conv1D holds [inputs, outputs]
    assert not torch.equal(before, after)
    assert torch.equal(after, rounded(before.T, "int8", 8).T)
