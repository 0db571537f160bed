"""Adapters on attention beside the rows."""

from __future__ import annotations

import pytest
import torch
from selecting import build, compact_sophia, ids, mask_of, weight_masks

from simu.selection.lora import Lora


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_trains_adapters_and_rows_and_merges_into_a_plain_model(family, dtype):
    model = build(family, dtype).eval()
    types = [(n, type(m)) for n, m in model.named_modules()]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    start = model(ids(0)).logits
    state = torch.get_rng_state()
    selection = Lora(r=2, alpha=4, seed=3)(model, mask_of(model))
    assert torch.equal(torch.get_rng_state(), state)
    names = [n for n, _ in selection.named_parameters()]
    assert sum("selected_rows" in n for n in names) == 2
    attention = {n for n, w in weight_masks(build(family), torch.zeros(3, 16)).items() if w.any() and "weight" in n}
    assert {n.removesuffix(".lora_A") + ".weight" for n in names if n.endswith("lora_A")} == attention
    assert all(p.dtype == torch.float32 for p in selection.parameters())
    torch.testing.assert_close(model(ids(0)).logits, start)  # B starts at zero
    optimizer = compact_sophia(model, selection, steps=4, lr=0.02)
    assert sum(t.numel() for s in optimizer.state.values() for t in s.values()) == 2 * selection.n_trained
    trained = model(ids(0)).logits
    assert (trained - start).abs().max() > 0.05
    tensors = {n: t.clone() for n, t in selection.trained_tensors().items()}
    selection.merge()
    assert [(n, type(m)) for n, m in model.named_modules()] == types
    tolerance = {"atol": 1e-5, "rtol": 0} if dtype == torch.float32 else {"atol": 0.15, "rtol": 0.05}
    torch.testing.assert_close(model(ids(0)).logits, trained, **tolerance)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= set(tensors)
    assert attention <= set(tensors)
    assert all(torch.equal(model.get_parameter(n), t) for n, t in tensors.items())
    assert all(p.requires_grad for p in model.parameters())


def test_lora_is_seeded_and_resumes():
    def start(seed: int):
        model = build("llama")
        return model, Lora(r=2, alpha=4, seed=seed)(model, torch.zeros(3, 16, dtype=torch.bool))

    torch.manual_seed(1)
    model, first = start(0)
    torch.manual_seed(2)
    other, second = start(0)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), start(1)[1].parameters(), strict=True))
    compact_sophia(model, first, steps=2, lr=0.05)
    second.load_state_dict(first.state_dict())
    assert torch.equal(model(ids(0)).logits, other(ids(0)).logits)
