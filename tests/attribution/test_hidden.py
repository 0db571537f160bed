"""`unit=hidden`: what the down-projection reads is replaced, one prefix, one layer, one path point at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from small import ATTRIBUTION_SWITCHES, SMALL
from torch import Tensor, nn

from simu.attribution import Activation, Gradient, Integrated, neuron_attribution, plan
from simu.attribution.engine.engine import Engine
from simu.attribution.path import path_points
from simu.store import partial
from simu.types import UserError

BIASED = SMALL | {"mlp_bias": True, "attention_bias": True}
GPT2 = {"vocab_size": 61, "n_embd": 16, "n_inner": 24, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = {
    "llama": ("llama", SMALL),
    "llama, biases": ("llama", BIASED),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox, parallel": ("gpt_neox", SMALL | {"use_parallel_residual": True}),
    "gpt_neox, sequential": ("gpt_neox", SMALL | {"use_parallel_residual": False}),
    "gemma": ("gemma", SMALL),
    "gemma2": ("gemma2", SMALL | {"final_logit_softcapping": 2.0}),
    "opt": ("opt", SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
}
LOSS = {"log_prob": lambda lp: lp, "nll": lambda lp: -lp, "prob": torch.exp}


def hidden_sums(model, batches, **settings):
    """Before rounding to float32."""
    return neuron_attribution(model, batches, unit="hidden", dtype=torch.float64, **settings)


def log_probs(model: nn.Module, ids: Tensor, given: dict[nn.Module, tuple[Tensor, Tensor]]) -> Tensor:
    """[T, V] of one unpadded row, where modules read, at some positions, the values [n, F] that are given."""

    def reads(at: Tensor, values: Tensor):
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            flat = args[0].reshape(-1, args[0].shape[-1])
            return (flat.index_copy(0, at, values).view(args[0].shape),)

        return hook

    handles = [module.register_forward_pre_hook(reads(*replaced)) for module, replaced in given.items()]
    try:
        return torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0], -1)
    finally:
        for handle in handles:
            handle.remove()


def read_by(model: nn.Module, down: list[nn.Module], ids: Tensor) -> list[Tensor]:
    """h of every layer on one unpadded row: L × [T, F]."""
    seen: list[Tensor] = []
    hooks = [
        m.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().reshape(-1, args[0].shape[-1])))
        for m in down
    ]
    with torch.no_grad():
        model(input_ids=ids[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def scored_rows(batch):
    for b, labels in enumerate(batch["labels"]):
        n = int(batch["attention_mask"][b].sum())
        yield batch["input_ids"][b, :n], [t for t in range(1, n) if labels[t] != -100]


def brute_force(model, down, batch, m, *, objective="log_prob", layers="single", path="gauss", position="next_token"):
    """Per sample: float64 [samples, L, F]."""
    found = []
    for ids, scored in scored_rows(batch):
        # what is replaced together: each sample in a prefix of its own, or all of a row
        for some in [[t] for t in scored] if position == "next_token" else [scored]:
            prefix, at = ids[: some[-1]] if position == "next_token" else ids, torch.tensor(some) - 1
            h = [x[at] for x in read_by(model, down, prefix)]
            att = torch.zeros(len(some), len(down), h[0].shape[-1], dtype=torch.float64)
            for f, w in zip(*path_points(m, path), strict=True):  # held against scipy's in test_integrated
                for chosen in [range(len(down))] if layers == "all" else [[i] for i in range(len(down))]:
                    a = {i: (f * h[i]).requires_grad_() for i in chosen}
                    lp = log_probs(model, prefix, {down[i]: (at, a[i]) for i in chosen})[at, ids[at + 1]]
                    grads = torch.autograd.grad(LOSS[objective](lp).sum(), list(a.values()))
                    for i, g in zip(chosen, grads, strict=True):
                        att[:, i] += w * h[i] * g / m
            found.append(att)
    return torch.cat(found)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_brute_force(name, reference):
    model_type, config = ARCHITECTURES[name]
    model = reference.model(model_type, **config)
    batch = reference.batch([(4, 7), (2, 3)])
    expected = brute_force(model, reference.down(model), batch, m=3).sum(0)
    got = hidden_sums(model, [batch], m=3)
    assert got.shape == (3, 24)
    assert reference.error(got, expected) < 1e-12


@pytest.fixture
def llama(reference):
    """With biases: there a down-projection that reads nothing still gives something."""
    return reference.model("llama", **BIASED)


@pytest.mark.parametrize("switch", ATTRIBUTION_SWITCHES, ids=str)
def test_every_switch_equals_its_brute_force_and_changes_the_scores(switch, llama, batch, reference):
    settings = {"m": 3} | switch
    got = hidden_sums(llama, [batch], **settings)
    absolute = settings.pop("reduction", "signed") == "absolute"
    samples = brute_force(llama, reference.down(llama), batch, **settings)
    assert reference.error(got, (samples.abs() if absolute else samples).sum(0)) < 1e-12
    assert reference.error(got, hidden_sums(llama, [batch], m=3)) > 1e-2


def test_batches_order_memory_and_recomputation_do_not_matter(llama, reference):
    batch = reference.batch([(3, 4), (2, 6), (4, 2)])
    whole = hidden_sums(llama, [batch], m=3)

    def rows(*order):
        return {name: x[list(order)] for name, x in batch.items()}

    for cut in ([rows(2, 0, 1)], [rows(1), rows(0, 2)], [rows(0), rows(1), rows(2)]):
        assert reference.error(hidden_sums(llama, cut, m=3), whole) < 1e-12
    for settings in ({"max_memory": 0.0003}, {"recompute": True}):
        assert reference.error(hidden_sums(llama, [batch], m=3, **settings), whole) < 1e-12
    assert plan(llama, [batch], m=3, unit="hidden", max_memory=0.0003).passes > plan(llama, [batch], m=3).passes


def test_groups_split_the_sum(llama, reference):
    batch = reference.batch([(3, 4), (2, 6), (4, 2)]) | {"group": torch.tensor([1, 0, 1])}
    got = hidden_sums(llama, [batch], m=2, groups=2)
    one = {name: x[1:2] for name, x in batch.items()}
    assert got.shape == (2, 3, 24)
    assert reference.error(got[0], brute_force(llama, reference.down(llama), one, m=2).sum(0)) < 1e-12
    assert reference.error(got.sum(0), brute_force(llama, reference.down(llama), batch, m=2).sum(0)) < 1e-12


@pytest.mark.parametrize("layers", ["single", "all"])
def test_sum_of_scores_is_the_change_of_log_probability(layers, llama, batch, reference):
    """What is lost where the down-projection reads zeros, and gives its bias: Σ_k Att(l, k) → Σ_i L_i(h) − L_i(0)."""
    down = reference.down(llama)
    fine = hidden_sums(llama, [batch], m=24, layers=layers).sum(1)
    settings = {"unit": "hidden", "m": 2, "path": "right", "layers": layers, "dtype": torch.float64}
    rough, off = neuron_attribution(llama, [batch], return_completeness=True, **settings)
    change = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for ids, scored in scored_rows(batch):
            for t in scored:
                whole = log_probs(llama, ids[:t], {})[-1, ids[t]]
                nothing = (torch.tensor([t - 1]), torch.zeros(1, 24, dtype=torch.float64))
                for i, module in enumerate(down):
                    silent = dict.fromkeys(down if layers == "all" else [module], nothing)
                    change[i] += whole - log_probs(llama, ids[:t], silent)[-1, ids[t]]
    total, rough = (x.sum(-1).expand(3) if layers == "all" else x for x in (fine, rough.sum(1)))
    torch.testing.assert_close(total, change, rtol=1e-4, atol=0)
    torch.testing.assert_close(off, (rough - change).abs() / change.abs(), rtol=1e-9, atol=0)
    assert Integrated(unit="hidden", m=2, reduction="absolute").with_completeness(llama, [batch])[1] is None


def test_a_square_down_projection_still_has_two_kinds_of_neurons(reference):
    """Where d_ff is d_model, shapes cannot tell them apart."""
    square = reference.model("llama", **SMALL | {"intermediate_size": 16})
    batch = reference.batch([(3, 4)])
    rows, hidden = (neuron_attribution(square, [batch], m=2, unit=unit).double() for unit in ("row", "hidden"))
    assert reference.error(hidden, brute_force(square, reference.down(square), batch, m=2).sum(0)) < 1e-6
    assert reference.error(rows, reference.total(reference.samples(square, batch, m=2))) < 1e-6
    assert reference.error(rows, hidden) > 0.1


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "gemma", "opt"])
def test_baselines(model_type, reference):
    """h · ∂ log P / ∂h by autograd, token by token, and Σ |h|, with the norm of what the neuron writes or without."""
    config = {"gpt2": GPT2, "opt": ARCHITECTURES["opt"][1]}.get(model_type, SMALL)
    model = reference.model(model_type, **config)
    batch, down = reference.batch([(3, 4), (2, 6)]), reference.down(model)
    gradient, activation = torch.zeros(2, 3, 24, dtype=torch.float64)
    for ids, scored in scored_rows(batch):
        for t in scored:
            h = [x[-1:].clone().requires_grad_() for x in read_by(model, down, ids[:t])]
            at = torch.tensor([t - 1])
            for i, module in enumerate(down):
                lp = log_probs(model, ids[:t], {module: (at, h[i])})[-1, ids[t]]
                gradient[i] += (h[i] * torch.autograd.grad(lp, h[i])[0])[0].detach()
                activation[i] += h[i][0].detach().abs()
    assert reference.error(Gradient(unit="hidden")(model, [batch]).double(), gradient) < 1e-6
    assert reference.error(Activation(unit="hidden")(model, [batch]).double(), activation) < 1e-6
    columns = [m.weight if model_type == "gpt2" else m.weight.t() for m in down]  # Conv1D has them as rows
    written = [[sum(x * x for x in column.tolist()) ** 0.5 for column in layer] for layer in columns]
    weighted = Activation(unit="hidden", weighted=True)(model, [batch]).double()
    assert reference.error(weighted, activation * torch.tensor(written, dtype=torch.float64)) < 1e-6


def test_resumes_to_the_same_bits(llama, batch, monkeypatch, tmp_path):
    monkeypatch.setattr(partial, "EVERY_SECONDS", 0.0)
    settings = {"m": 3, "unit": "hidden", "max_memory": 0.0003}
    whole = neuron_attribution(llama, [batch], **settings)
    original, seen = Engine.gradients, []

    def killed_at_the_third(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "gradients", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        neuron_attribution(llama, [batch], **settings, checkpoint=tmp_path)
    seen.append(1)
    assert neuron_attribution(llama, [batch], **settings, checkpoint=tmp_path).equal(whole)


def test_partial_sums_of_rows_are_not_those_of_hidden_neurons(reference, batch, tmp_path, caplog):
    square = reference.model("llama", **SMALL | {"intermediate_size": 16})
    neuron_attribution(square, [batch], m=2, checkpoint=tmp_path)
    got = neuron_attribution(square, [batch], m=2, unit="hidden", checkpoint=tmp_path)
    assert "another attribution" in caplog.text
    assert got.equal(neuron_attribution(square, [batch], m=2, unit="hidden"))


def test_bfloat16_is_near(llama, batch, reference):
    narrow = copy.deepcopy(llama).to(torch.bfloat16)
    got = neuron_attribution(narrow, [batch], m=3, unit="hidden")
    assert got.dtype == torch.float32
    assert reference.error(got.double(), hidden_sums(llama, [batch], m=3)) < 0.1


def test_layers_of_unlike_widths_are_refused_for_hidden_neurons_alone(reference, batch):
    model = reference.model("llama", **SMALL)
    mlp = model.model.layers[1].mlp
    for name, size in (("gate_proj", (16, 8)), ("up_proj", (16, 8)), ("down_proj", (8, 16))):
        setattr(mlp, name, nn.Linear(*size, bias=False, dtype=torch.float64))
    assert neuron_attribution(model, [batch], m=1).shape == (3, 16)
    with pytest.raises(UserError, match=r"^attribution\.unit=hidden: the layers' MLPs have 8 to 24 hidden neurons"):
        neuron_attribution(model, [batch], m=1, unit="hidden")
