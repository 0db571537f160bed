"""Which parameters a selection holds, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from selecting import FAMILIES, build, hidden_mask_of, loss_of, mask_of, weight_masks
from torch import nn

from simu.selection.core import apply_tensors
from simu.selection.everything import Everything
from simu.selection.lora import Lora
from simu.selection.select import select_parameters
from simu.types import UserError


def test_layers_without_rows_have_no_parameter_and_stay_plain():
    model = build("llama")
    selection = select_parameters(model, mask_of(model))
    names = [n for n, _ in selection.named_parameters()]
    assert [n for n in names if "selected" in n] == [
        "model.layers.0.mlp.down_proj.selected_rows",
        "model.layers.2.mlp.down_proj.selected_rows",
    ]
    assert type(model.model.layers[1].mlp.down_proj) is nn.Linear
    assert "forward" not in vars(model.model.layers[1].mlp.down_proj)
    assert selection.n_trained == sum(
        p.numel() for n, p in build("llama").named_parameters() if "self_attn" in n
    ) + 24 * (3 + 14)


@pytest.mark.parametrize("family", FAMILIES)
def test_mask_all_trains_whole_down_projections_and_none_attention_only(family):
    for mask in (torch.ones(3, 16, dtype=torch.bool), torch.zeros(3, 16, dtype=torch.bool)):
        model = build(family)
        expected = {n for n, w in weight_masks(model, mask).items() if (w > 0).any()}
        selection = select_parameters(model, mask)
        assert {n for n, _ in selection.named_parameters()} == expected == set(selection.names)
        assert {n for n, p in model.named_parameters() if p.requires_grad} == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_all_hidden_neurons_are_whole_weights_and_no_bias(family):
    model = build(family)
    selection = select_parameters(model, torch.ones(3, 24, dtype=torch.bool), unit="hidden")
    expected = {n for n, w in weight_masks(model, torch.ones(3, 24), "hidden").items() if (w > 0).any()}
    assert {n for n, _ in selection.named_parameters()} == expected == set(selection.names)


def test_columns_have_numbers_of_their_own_alone():
    model = build("phi")
    selection = select_parameters(model, hidden_mask_of(model), unit="hidden")
    shapes = {n: tuple(p.shape) for n, p in selection.named_parameters() if "selected" in n}
    assert shapes == {
        "model.layers.0.mlp.fc2.selected_columns": (3, 16),
        "model.layers.2.mlp.fc2.selected_columns": (22, 16),
    }
    attention = sum(p.numel() for n, p in build("phi").named_parameters() if "self_attn" in n)
    assert selection.n_trained == attention + 16 * (3 + 22)
    adapted = build("phi")
    names = [n for n, _ in Lora(r=2)(adapted, hidden_mask_of(adapted), unit="hidden").named_parameters()]
    assert {n for n in names if "selected" in n} == set(shapes)


def test_scope_all_trains_everything_once():
    model = build("gpt2")  # tied embeddings
    selection = select_parameters(model, None)
    assert [n for n, _ in selection.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert len({id(p) for p in selection.parameters()}) == len(list(model.parameters()))
    assert Everything()(build("llama"), None).n_trained == sum(p.numel() for p in build("llama").parameters())


def test_the_backward_stops_below_the_lowest_trained_layer():
    model = build("llama")
    select_parameters(model, torch.zeros(3, 16, dtype=torch.bool))
    seen = []
    model.model.layers[0].register_forward_hook(lambda m, a, out: seen.append((a[0].requires_grad, out)))
    loss_of(model, 0)
    assert seen[0][0] is False  # nothing to propagate below layer 0's projections


def test_mistakes_are_one_line():
    model = build("llama")
    mask = mask_of(model)
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(UserError, match=r"shape \(2, 16\); allowed is \(3, 16\)"):
        select_parameters(model, mask[:2])
    with pytest.raises(UserError, match=r"shape \(3, 16\); allowed is \(3, 24\), this model's \[layers, d_ff\]"):
        select_parameters(model, mask, unit="hidden")
    with pytest.raises(UserError, match=r"outside \[0, 1\]"):
        select_parameters(model, mask.float() * 2)
    with pytest.raises(UserError, match=r"outside \[0, 1\]"):
        Lora()(model, mask.float() * float("nan"))
    with pytest.raises(UserError, match="needs a mask"):
        select_parameters(model, None, scope="selected")
    assert [p.requires_grad for p in model.parameters()] == flags  # untouched by a refusal
    selection = select_parameters(model, mask)
    with pytest.raises(UserError, match="merge"):
        select_parameters(model, mask)
    with pytest.raises(UserError, match="merge"):
        Lora()(model, mask)
    columns = build("llama")
    select_parameters(columns, hidden_mask_of(columns), unit="hidden")
    with pytest.raises(UserError, match="already has selected neurons"):
        select_parameters(columns, mask)
    state = selection.state_dict()
    with pytest.raises(UserError, match="missing"):
        selection.load_state_dict(dict(list(state.items())[1:]))
    with pytest.raises(UserError, match="not a tensor"):
        selection.load_state_dict(state | {"x": torch.ones(1)})
    with pytest.raises(UserError, match="shape"):
        apply_tensors(model, {"lm_head.weight": torch.ones(1)})
    with pytest.raises(UserError, match="not a tensor"):
        apply_tensors(model, {"nothing.weight": torch.ones(1)})
