"""What is left of a selection: a plain model, tensors, states to go on from."""

from __future__ import annotations

import copy

import pytest
import torch
from selecting import FAMILIES, MASKS, build, compact_sophia, ids

from simu.optim import BuildSophia
from simu.selection.core import apply_tensors
from simu.selection.select import select_parameters
from simu.selection.selected import Selected


@pytest.mark.parametrize("unit", MASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_merge_leaves_a_plain_model(family, unit, tmp_path):
    model = build(family)
    model.model.embed_tokens.weight.requires_grad_(False) if family == "llama" else None
    twin = copy.deepcopy(model)
    soft = MASKS[unit](model).float() * 0.5
    selection = Selected()(model, soft, unit=unit)
    compact_sophia(model, selection, steps=2, lr=0.01)
    assert selection.merge() is model
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in twin.named_modules()]
    assert [(n, p.requires_grad, p.shape) for n, p in model.named_parameters()] == [
        (n, p.requires_grad, p.shape) for n, p in twin.named_parameters()
    ]
    assert list(model.state_dict()) == list(twin.state_dict())
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_pre_hooks
    assert all(p.grad is None for p in model.parameters())
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(loaded.eval()(ids(0)).logits, model.eval()(ids(0)).logits)
    # and it can be selected again
    select_parameters(model, soft, unit=unit).merge()


@pytest.mark.parametrize(("scope", "unit"), [("selected", "row"), ("selected", "hidden"), ("all", "row")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_from_state_dicts_is_bit_equal(scope, unit, dtype, tmp_path):
    def start():
        model = build("phi", dtype)
        soft = MASKS[unit](model).float()
        soft[0, 7] = 0.5
        return model, select_parameters(model, soft if scope == "selected" else None, unit=unit)

    model, selection = start()
    optimizer = compact_sophia(model, selection, steps=3, lr=0.01)
    torch.save({"selection": selection.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    compact_sophia(model, selection, steps=3, lr=0.01, first=3, optimizer=optimizer)
    selection.merge()

    again, resumed = start()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state["selection"])
    other = BuildSophia(lr=0.01)(resumed.named_parameters())
    other.load_state_dict(state["optimizer"])
    compact_sophia(again, resumed, steps=3, lr=0.01, first=3, optimizer=other)
    resumed.merge()
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("unit", MASKS)
@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
def test_trained_tensors_rebuild_the_unlearned_model(family, unit):
    model = build(family, torch.bfloat16)
    selection = select_parameters(model, MASKS[unit](model), unit=unit)
    compact_sophia(model, selection, steps=2, lr=0.01)
    tensors = {n: t.clone() for n, t in selection.trained_tensors().items()}
    selection.merge()
    assert {n: t.shape for n, t in tensors.items()} == {n: model.get_parameter(n).shape for n in tensors}
    assert all(torch.equal(t, tensors[n]) for n, t in selection.trained_tensors().items())
    other = apply_tensors(build(family, torch.bfloat16), tensors)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
