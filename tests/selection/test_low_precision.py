"""Float32 masters of bfloat16 weights, and autocast."""

from __future__ import annotations

import pytest
import torch
from selecting import build, loss_of, mask_of

from simu.optim import Sophia
from simu.selection.select import select_parameters


def trajectory_bf16(master: bool, steps: int = 40, lr: float = 5e-6):
    model = build("llama", torch.bfloat16)
    mask = mask_of(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    selection = select_parameters(model, mask, master=master)
    optimizer = Sophia(selection.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        for p in selection.parameters():
            p.grad = torch.ones_like(p)  # a steady gradient: every coordinate should sink by lr a step
        optimizer.step()
        optimizer.zero_grad()
    masters = selection.state_dict()
    selection.merge()
    return model, before, masters


def test_masters_let_small_steps_add_up():
    """Under γ·H = 204.8·H with g = 1, m/(γH) = (1−0.9^t)/(204.8·(1−0.95^t)): about 0.0098 to 0.0055 lr a step."""
    lr, steps = 5e-4, 300
    travelled = sum(lr * (1 - 0.9**t) / (204.8 * (1 - 0.95**t)) for t in range(1, steps + 1))
    model, before, masters = trajectory_bf16(True, steps, lr)
    for name, value in masters.items():
        assert value.dtype == torch.float32
        if "self_attn" in name:
            torch.testing.assert_close(value, before[name].float() - travelled, rtol=0, atol=2e-6)
            assert torch.equal(model.get_parameter(name), value.bfloat16())
    pure, _, values = trajectory_bf16(False, steps, lr)
    assert all(v.dtype == torch.bfloat16 for v in values.values())
    large = {n: before[n].abs() > 0.1 for n in values if "self_attn" in n}
    assert all(torch.equal(pure.get_parameter(n)[w], before[n][w]) for n, w in large.items())  # never moves
    assert any((model.get_parameter(n)[w] != before[n][w]).any() for n, w in large.items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_bf16_gradients_reach_the_masters_and_add_up_over_backwards(family):
    model = build(family, torch.bfloat16)
    mask = mask_of(model)
    selection = select_parameters(model, mask)
    sums = {}
    for seed in (0, 1):
        loss_of(model, seed).backward()
        for name, p in selection.named_parameters():
            sums.setdefault(name, []).append(p.grad.clone())
    for p in selection.parameters():
        assert p.dtype == p.grad.dtype == torch.float32
    twin = build(family, torch.bfloat16)
    loss_of(twin, 0).backward()
    attention = [n for n in sums if "selected" not in n]
    for name in attention:
        torch.testing.assert_close(sums[name][0], twin.get_parameter(name).grad.float())
    twin.zero_grad()
    loss_of(twin, 1).backward()
    for name in attention:
        torch.testing.assert_close(
            sums[name][1] - sums[name][0], twin.get_parameter(name).grad.float(), atol=1e-6, rtol=0
        )
    trained = {id(p) for p in selection.parameters()}
    assert all(p.grad is None for p in model.parameters() if id(p) not in trained)  # freed as they arrive


def test_autocast():
    model = build("llama")
    selection = select_parameters(model, mask_of(model))
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, 0)
    loss.backward()
    twin = build("llama")
    loss_of(twin, 0).backward()
    name = "model.layers.2.mlp.down_proj"
    grad = dict(selection.named_parameters())[f"{name}.selected_rows"].grad
    assert grad.dtype == torch.float32
    torch.testing.assert_close(grad, twin.get_submodule(name).weight.grad[mask_of(model)[2]], atol=2e-3, rtol=0.1)
