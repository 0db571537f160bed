"""Selection against a dense simulation of Eq. 5–7: the full model's gradients, moments, decay and update, masked."""

from __future__ import annotations

import copy

import pytest
import torch
from selecting import (
    FAMILIES,
    MASKS,
    assert_equal_where_known,
    build,
    compact_sophia,
    dense_sophia,
    hidden_mask_of,
    loss_of,
    mask_of,
    weight_masks,
)

from simu.selection.rows import _Selected
from simu.selection.select import select_parameters


@pytest.mark.parametrize("unit", MASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_compact_equals_the_dense_simulation(family, unit):
    model = build(family, torch.float64)
    mask = MASKS[unit](model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = dense_sophia(copy.deepcopy(model), mask, steps=5, lr=1e-3, unit=unit)
    selection = select_parameters(model, mask, unit=unit)
    optimizer = compact_sophia(model, selection, steps=5, lr=1e-3)
    selection.merge()
    weights = weight_masks(model, mask, unit)
    moved = 0
    for name, p in model.named_parameters():
        frozen = weights[name] == 0
        assert torch.equal(p[frozen], before[name][frozen]), name  # bit-equal
        assert_equal_where_known(p, expected[name], 1e-12, name)
        moved += int((p != before[name]).sum())
    trained = int(sum((w > 0).sum() for w in weights.values()))
    assert moved > 0.95 * trained
    state = sum(t.numel() for s in optimizer.state.values() for t in s.values())
    assert state == 2 * trained  # m and H, for what trains and for nothing else


@pytest.mark.parametrize("unit", MASKS)
@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
def test_soft_weights_scale_the_update_exactly(family, unit):
    model = build(family, torch.float64)
    soft = MASKS[unit](model).double()
    soft[0, 1], soft[0, 7], soft[2, 3] = 0.25, 0.7, 1e-3
    # one step, as the weight of a row acts on the whole of its later gradients too
    expected = dense_sophia(copy.deepcopy(model), soft, steps=1, lr=1e-3, unit=unit)
    hard = dense_sophia(copy.deepcopy(model), soft > 0, steps=1, lr=1e-3, unit=unit)
    selection = select_parameters(model, soft, unit=unit)
    compact_sophia(model, selection, steps=1, lr=1e-3)
    selection.merge()
    for name, p in model.named_parameters():
        assert_equal_where_known(p, expected[name], 1e-12, name)
    assert any((expected[name] - hard[name]).abs().max() > 1e-4 for name in expected)


def test_soft_weights_through_several_steps_and_another_optimizer():
    """θ_new = θ_old + w·Δ, Δ being what the optimizer did to the compact rows in each step."""
    model = build("llama", torch.float64)
    soft = torch.zeros(3, 16, dtype=torch.float64)
    soft[1, 4], soft[1, 5] = 0.3, 1.0
    selection = select_parameters(model, soft)
    rows = dict(selection.named_parameters())["model.layers.1.mlp.down_proj.selected_rows"]
    optimizer = torch.optim.SGD(selection.parameters(), lr=0.1, momentum=0.9)
    velocity = torch.zeros_like(rows)
    for step in range(3):
        loss_of(model, step).backward()
        velocity = 0.9 * velocity + rows.grad
        expected = rows.detach() - 0.1 * torch.tensor([[0.3], [1.0]], dtype=torch.float64) * velocity
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(rows.detach(), expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_whole_model():
    model = build("phi", torch.float64)
    twin = copy.deepcopy(model)
    loss_of(twin, 0).backward()
    selection = select_parameters(model, mask_of(model))
    loss_of(model, 0).backward()
    for index, name in ((0, "model.layers.0.mlp.fc2"), (2, "model.layers.2.mlp.fc2")):
        chosen = mask_of(model)[index]
        own = dict(selection.named_parameters())
        full = twin.get_submodule(name)
        torch.testing.assert_close(own[f"{name}.selected_rows"].grad, full.weight.grad[chosen])
        torch.testing.assert_close(own[f"{name}.selected_bias"].grad, full.bias.grad[chosen])
    q = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(dict(selection.named_parameters())[q].grad, twin.get_parameter(q).grad)
    selected = {id(p) for p in selection.parameters()}
    assert all(p.grad is None for p in model.parameters() if id(p) not in selected)


@pytest.mark.parametrize("family", ["phi", "gpt2"])
def test_gradients_of_columns_are_those_of_the_whole_model(family):
    model = build(family, torch.float64)
    twin, mask = copy.deepcopy(model), hidden_mask_of(model)
    loss_of(twin, 0).backward()
    selection = select_parameters(model, mask, unit="hidden")
    loss_of(model, 0).backward()
    own = dict(selection.named_parameters())
    assert not any("selected_bias" in name or name.endswith(("fc2.bias", "mlp.c_proj.bias")) for name in own)
    for index in (0, 2):
        name = f"transformer.h.{index}.mlp.c_proj" if family == "gpt2" else f"model.layers.{index}.mlp.fc2"
        dense = twin.get_submodule(name).weight.grad
        columns = dense if family == "gpt2" else dense.t()  # Conv1D has a hidden neuron's weights as a row
        torch.testing.assert_close(own[f"{name}.selected_columns"].grad, columns[mask[index]])
    selected = {id(p) for p in selection.parameters()}
    assert all(p.grad is None for p in model.parameters() if id(p) not in selected)


@pytest.mark.parametrize("transposed", [False, True])
def test_autograd_function_of_columns_passes_gradcheck(transposed):
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    index = torch.tensor([0, 2, 3])
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def f(x, columns):
        w = weight.clone()
        w[:, index] = columns.detach().t()
        return _Selected.apply(x, w.t() if transposed else w, bias, columns, None, index, "hidden", transposed)

    assert torch.autograd.gradcheck(f, (x, weight.t()[index].clone().requires_grad_()))


def test_autograd_function_passes_gradcheck():
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    index = torch.tensor([1, 3])
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def f(x, rows, row_bias):
        w, b = weight.clone(), bias.clone()
        w[index], b[index] = rows.detach(), row_bias.detach()  # what sync keeps true
        return _Selected.apply(x, w, b, rows, row_bias, index, "row", False)

    rows, row_bias = (t[index].clone().requires_grad_() for t in (weight, bias))
    assert torch.autograd.gradcheck(f, (x, rows, row_bias))
