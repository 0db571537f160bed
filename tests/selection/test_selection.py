"""Selection against a dense simulation of Eq. 5–7: the full model's gradients, moments, decay and update, masked."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from simu.models.anatomy import anatomy
from simu.optim import BuildSophia, Sophia
from simu.selection.core import Everything, Lora, Selected, apply_tensors, select_parameters
from simu.types import UserError

V = 61
WIDTHS = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": V,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": ("Llama", {"num_key_value_heads": 2}),
    "olmo": ("Olmo", {"clip_qkv": 8.0}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2}),  # q, k, v have biases
    "phi": ("Phi", {}),  # every projection has a bias, the down-projection too
    "gpt2": (
        "GPT2",
        {
            "n_embd": 16,
            "n_inner": 24,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
}


def build(family: str, dtype=torch.float32):
    name, extra = FAMILIES[family]
    widths = {"vocab_size": V, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} if family == "gpt2" else WIDTHS
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**widths, **extra)
    config._attn_implementation = "eager"
    model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    for parameter in model.parameters():  # biases and norms start at constants
        nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else parameter.data.add_(
            0.1 * torch.randn_like(parameter)
        )
    return model.to(dtype).train()


def mask_of(model) -> torch.Tensor:
    """Few rows in layer 0, none in layer 1, most in layer 2."""
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, [1, 7, 8]] = True
    mask[2] = True
    mask[2, [0, 5]] = False
    return mask


def ids(seed: int) -> torch.Tensor:
    return torch.randint(3, V, (2, 9), generator=torch.Generator().manual_seed(seed))


def loss_of(model, seed: int) -> torch.Tensor:
    return model(input_ids=ids(seed), labels=ids(seed)).loss


def weight_masks(model, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What trains, as a weight (0 to 1) for every coordinate of every parameter: written from Eq. 5-7."""
    weights = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    parts = anatomy(model)
    for layer in parts.attention:
        for name, module in layer:
            for attribute, _ in module.named_parameters(recurse=False):
                weights[f"{name}.{attribute}"].fill_(1.0)
    for name, module, row in zip(parts.down_names, parts.down_projections, mask.double(), strict=True):
        weight = weights[f"{name}.weight"]
        weight.copy_(row.expand_as(weight) if isinstance(module, Conv1D) else row[:, None].expand_as(weight))
        if module.bias is not None:
            weights[f"{name}.bias"].copy_(row)
    return weights


def dense_sophia(model, mask, steps: int, lr: float, clip: float = 1.0) -> dict[str, torch.Tensor]:
    """Eq. 3–7 on the whole model, in place: everything masked, nothing compact. Moments in float64.

    NaN where a gradient is but rounding (biases of keys that no rotation reaches: softmax does not see them).
    """
    weights = weight_masks(model, mask)
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    rounding = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}
    for step in range(steps):
        model.zero_grad()
        loss_of(model, step).backward()
        grads = {n: p.grad.double() * (weights[n] > 0) for n, p in model.named_parameters()}
        for name, g in grads.items():
            if "k_proj.bias" in name or "c_attn.bias" in name:
                rounding[name] |= g.abs() < 2e-7
        norm = sum((g**2).sum() for g in grads.values()).sqrt()
        with torch.no_grad():
            for name, p in model.named_parameters():
                g = grads[name] * min(1.0, clip / norm.item())
                m, h = moments[name]
                m.mul_(0.9).add_(0.1 * g)
                h.mul_(0.95).add_(0.05 * g * g)
                decay = 0.1 if p.ndim > 1 else 0.0
                new = p.double() * (1 - lr * decay) - lr * (m / (204.8 * h).clamp(min=1e-15)).clamp(-1, 1)
                p.copy_(torch.where(weights[name] > 0, p.double() + weights[name] * (new - p.double()), p.double()))
    return {name: p.detach().masked_fill(rounding[name], float("nan")) for name, p in model.named_parameters()}


def assert_equal_where_known(actual, expected, atol: float, name: str) -> None:
    known = ~expected.isnan()
    assert known.float().mean() > 0.3
    torch.testing.assert_close(actual[known], expected[known], rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


def compact_sophia(model, selection, steps: int, lr: float, first: int = 0, optimizer=None):
    optimizer = optimizer or BuildSophia(lr=lr)(selection.named_parameters())
    for step in range(first, first + steps):
        loss_of(model, step).backward()
        nn.utils.clip_grad_norm_(list(selection.parameters()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("family", FAMILIES)
def test_compact_equals_the_dense_simulation(family):
    model = build(family)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = dense_sophia(copy.deepcopy(model), mask_of(model), steps=5, lr=1e-3)
    selection = select_parameters(model, mask_of(model))
    optimizer = compact_sophia(model, selection, steps=5, lr=1e-3)
    selection.merge()
    weights = weight_masks(model, mask_of(model))
    moved = 0
    for name, p in model.named_parameters():
        frozen = weights[name] == 0
        assert torch.equal(p[frozen], before[name][frozen]), name  # bit-equal
        assert_equal_where_known(p, expected[name], 2e-6, name)
        moved += int((p != before[name]).sum())
    trained = int(sum((w > 0).sum() for w in weights.values()))
    assert moved > 0.95 * trained
    state = sum(t.numel() for s in optimizer.state.values() for t in s.values())
    assert state == 2 * trained  # m and H, for what trains and for nothing else


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
def test_soft_weights_scale_the_update_exactly(family):
    model = build(family)
    soft = mask_of(model).float()
    soft[0, 1], soft[0, 7], soft[2, 3] = 0.25, 0.7, 1e-3
    # one step, as the weight of a row acts on the whole of its later gradients too
    expected = dense_sophia(copy.deepcopy(model), soft, steps=1, lr=1e-3)
    hard = dense_sophia(copy.deepcopy(model), soft > 0, steps=1, lr=1e-3)
    selection = select_parameters(model, soft)
    compact_sophia(model, selection, steps=1, lr=1e-3)
    selection.merge()
    for name, p in model.named_parameters():
        assert_equal_where_known(p, expected[name], 2e-7, name)
    assert any((expected[name] - hard[name]).abs().max() > 1e-4 for name in expected)


def test_soft_weights_through_several_steps_and_another_optimizer():
    """θ_new = θ_old + w·Δ, Δ being what the optimizer did to the compact rows in each step."""
    model = build("llama").double()
    soft = torch.zeros(3, 16)
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
        torch.testing.assert_close(rows.detach(), expected, rtol=0, atol=1e-8)


def test_gradients_are_those_of_the_whole_model():
    model = build("phi").double()
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


def test_autograd_function_passes_gradcheck():
    from simu.selection.core import _SelectedRows

    torch.manual_seed(0)
    weight, bias = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    index = torch.tensor([1, 3])
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def f(x, rows, row_bias):
        w, b = weight.clone(), bias.clone()
        w[index], b[index] = rows.detach(), row_bias.detach()  # what sync keeps true
        return _SelectedRows.apply(x, w, b, rows, row_bias, index, False)

    rows, row_bias = (t[index].clone().requires_grad_() for t in (weight, bias))
    assert torch.autograd.gradcheck(f, (x, rows, row_bias))


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


@pytest.mark.parametrize("family", FAMILIES)
def test_merge_leaves_a_plain_model(family, tmp_path):
    model = build(family)
    model.model.embed_tokens.weight.requires_grad_(False) if family == "llama" else None
    twin = copy.deepcopy(model)
    soft = mask_of(model).float() * 0.5
    selection = Selected()(model, soft)
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
    select_parameters(model, soft).merge()


@pytest.mark.parametrize("scope", ["selected", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_from_state_dicts_is_bit_equal(scope, dtype, tmp_path):
    def start():
        model = build("phi", dtype)
        soft = mask_of(model).float()
        soft[0, 7] = 0.5
        return model, select_parameters(model, soft if scope == "selected" else None)

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


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
def test_trained_tensors_rebuild_the_unlearned_model(family):
    model = build(family, torch.bfloat16)
    selection = select_parameters(model, mask_of(model))
    compact_sophia(model, selection, steps=2, lr=0.01)
    tensors = {n: t.clone() for n, t in selection.trained_tensors().items()}
    selection.merge()
    assert {n: t.shape for n, t in tensors.items()} == {n: model.get_parameter(n).shape for n in tensors}
    assert all(torch.equal(t, tensors[n]) for n, t in selection.trained_tensors().items())
    other = apply_tensors(build(family, torch.bfloat16), tensors)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    grads = []
    for checkpointing in (False, True):
        model = build("llama").double()
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


def test_mistakes_are_one_line():
    model = build("llama")
    mask = mask_of(model)
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(UserError, match=r"shape \(2, 16\); allowed is \(3, 16\)"):
        select_parameters(model, mask[:2])
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
    state = selection.state_dict()
    with pytest.raises(UserError, match="missing"):
        selection.load_state_dict(dict(list(state.items())[1:]))
    with pytest.raises(UserError, match="not a tensor"):
        selection.load_state_dict(state | {"x": torch.ones(1)})
    with pytest.raises(UserError, match="shape"):
        apply_tensors(model, {"lm_head.weight": torch.ones(1)})
    with pytest.raises(UserError, match="not a tensor"):
        apply_tensors(model, {"nothing.weight": torch.ones(1)})
