"""A selected model computes with what the optimizer holds, however it is run."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from selecting import build, compact_sophia, ids, loss_of, mask_of
from torch import nn

from simu.optim import BuildSophia
from simu.selection.core import apply_tensors
from simu.selection.select import select_parameters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_computes_with_current_weights_between_steps(dtype):
    model = build("llama", dtype)
    selection = select_parameters(model, mask_of(model))
    untouched = copy.deepcopy(model)
    compact_sophia(model, selection, steps=2, lr=0.05)
    model.eval()
    with torch.inference_mode():
        now = model(ids(9)).logits
        text = model.generate(ids(9), attention_mask=torch.ones_like(ids(9)), max_new_tokens=5, do_sample=False)
    assert not torch.equal(now, untouched.eval()(ids(9)).logits)
    compact_sophia(model.train(), selection, steps=1, lr=0.05)  # training goes on
    assert not torch.equal(model.eval()(ids(9)).logits, now)
    # a plain copy with the same weights says the same, to the bit
    plain = apply_tensors(build("llama", dtype).eval(), selection.trained_tensors())
    after = model(ids(9)).logits
    assert torch.equal(plain(ids(9)).logits, after)
    selection.merge()
    assert torch.equal(model(ids(9)).logits, after)
    assert text.shape == (2, 14)


def test_changes_outside_an_optimizer_are_seen_at_the_next_forward():
    for dtype in (torch.float64, torch.bfloat16):
        model = build("llama", dtype)
        selection = select_parameters(model, mask_of(model))
        first = model(ids(0)).logits
        with torch.no_grad():
            dict(selection.named_parameters())["model.layers.2.mlp.down_proj.selected_rows"].zero_()
        second = model(ids(0)).logits
        with torch.no_grad():
            dict(selection.named_parameters())["model.layers.0.self_attn.o_proj.weight"].zero_()
        assert not torch.equal(first, second)
        assert not torch.equal(model(ids(0)).logits, second)


def test_fused_optimizers_are_followed():
    """They change a tensor without raising its version counter."""
    model = build("llama")
    selection = select_parameters(model, mask_of(model))
    optimizer = torch.optim.AdamW(selection.parameters(), lr=0.05, fused=True)
    loss_of(model, 0).backward()
    optimizer.step()
    rows = selection.state_dict()["model.layers.0.mlp.down_proj.selected_rows"]
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight[[1, 7, 8]], rows)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    grads = []
    for checkpointing in (False, True):
        model = build("llama", torch.float64)
        selection = select_parameters(model, mask_of(model))
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            if reentrant:
                model.enable_input_require_grads()
        loss_of(model, 0).backward()
        grads.append({n: p.grad for n, p in selection.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_models_follow_the_optimizer(dtype):
    """Traced and differentiated whole (no graph break), run without code generation; several steps against eager."""
    results = []
    for compiled in (False, True):
        model = build("llama", dtype)
        selection = select_parameters(model, mask_of(model))
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        optimizer = BuildSophia(lr=0.01)(selection.named_parameters())
        losses = []
        for step in range(3):
            logits = run(input_ids=ids(step), use_cache=False).logits
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids(step)[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        results.append(losses)
    torch._dynamo.reset()
    assert results[0] == pytest.approx(results[1], abs=1e-6 if dtype == torch.float32 else 0.05)
    assert len(set(results[0])) == 3


def test_a_copy_of_the_model_is_on_its_own():
    model = build("llama", torch.bfloat16)
    selection = select_parameters(model, mask_of(model))
    twin = copy.deepcopy(model)
    before = twin(ids(0)).logits
    compact_sophia(model, selection, steps=2, lr=0.05)
    assert torch.equal(twin(ids(0)).logits, before)


def test_a_dropped_selection_lets_go_of_optimizers():
    from torch.optim import optimizer as hooks

    n = len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)
    model = build("llama")
    selection = select_parameters(model, mask_of(model))
    assert len(hooks._global_optimizer_pre_hooks) == n[0] + 1
    selection.merge()
    assert (len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)) == n
    selection = select_parameters(model, mask_of(model))
    del selection, model
    gc.collect()
    assert (len(hooks._global_optimizer_pre_hooks), len(hooks._global_optimizer_post_hooks)) == n
