"""Sophia's presets, read from conf/optimizer, against first steps by hand and an independent numpy simulation."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from simu.optim.adamw import BuildAdamW
from simu.optim.sampled import sampled_nll
from simu.optim.sophia import BuildSophia, Sophia
from simu.types import FieldError

CONF = Path(__file__).parents[2] / "conf" / "optimizer"
PRESETS = {"sophia": "simu", "sophia_soul": "soul", "sophia_literal": "literal"}


def built(name: str, **override):
    """The component of a yaml, with overrides; pydantic's conversion of lists to tuples by hand."""
    fields = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | override
    fields.pop("_target_")
    fields["betas"] = tuple(fields["betas"])
    return (BuildAdamW if name == "adamw" else BuildSophia)(**fields)


def simulate(kind: str, theta, grads, lrs, decay: bool = True):
    """Eq. 3-4, one scalar loop in float64 per coordinate, written from the page and from SOUL's description."""
    gamma = 0.04 if kind == "literal" else 0.04 * 5120
    out, fractions = [], []
    m, h, theta = np.zeros_like(theta), np.zeros_like(theta), theta.astype(np.float64).copy()
    for g, lr in zip(grads, lrs, strict=True):
        clipped = 0
        for i in np.ndindex(theta.shape):
            gi = float(g[i])
            m[i] = 0.9 * m[i] + 0.1 * gi
            if kind == "soul":
                m[i] = 0.9 * m[i] + 0.1 * gi
            h[i] = 0.95 * h[i] + 0.05 * gi * gi
            bottom = {
                "simu": max(gamma * h[i], 1e-15),
                "soul": gamma * h[i] + 1e-15,
                "literal": max(gamma * h[i], 1e-12),
            }[kind]
            ratio = m[i] / bottom
            clipped += abs(ratio) > 1
            if decay:
                theta[i] *= 1 - lr * 0.1
            theta[i] -= lr * min(1.0, max(-1.0, ratio))
        out.append(theta.copy())
        fractions.append(clipped / theta.size)
    return out, fractions


@pytest.mark.parametrize("name", PRESETS)
def test_presets_follow_the_numpy_simulation(name):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 7))
    # gradients around the scale where γ·H and m cross, so that some coordinates clip and some do not
    grads = rng.normal(size=(8, 5, 7)) * 10.0 ** rng.uniform(-3, 0.5, size=(1, 5, 7))
    grads *= 5120 if name == "sophia_literal" else 1  # γ is that much smaller
    lrs = [0.01 * (1 - i / 10) for i in range(8)]
    expected, fractions = simulate(PRESETS[name], start, grads, lrs)
    param = torch.nn.Parameter(torch.tensor(start))
    optimizer = built(name, lr=0.01)([("w.weight", param)])
    for g, lr, theta, fraction in zip(grads, lrs, expected, fractions, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        param.grad = torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(param.detach().numpy(), theta, rtol=0, atol=1e-13)
        assert optimizer.clipped_fraction == pytest.approx(fraction)
    assert 0 < fractions[-1] < 1


def test_first_steps_by_hand():
    # g = 0.1: m = 0.01, H = 0.05 · 0.01 = 5e-4, γH = 0.1024, ratio 0.09765625; g = 1e-3: ratio 1e-4 / 1.024e-5 > 1
    param = torch.nn.Parameter(torch.tensor([[1.0, 1.0, -2.0]], dtype=torch.float64))
    optimizer = built("sophia", lr=0.01)([("w", param)])
    param.grad = torch.tensor([[0.1, 1e-3, 0.0]], dtype=torch.float64)
    optimizer.step()
    expected = torch.tensor([[0.999 - 0.01 * 0.09765625, 0.999 - 0.01, -2 * 0.999]], dtype=torch.float64)
    torch.testing.assert_close(param.detach(), expected, rtol=1e-12, atol=0)
    assert optimizer.clipped_fraction == pytest.approx(1 / 3)
    state = optimizer.state[param]
    torch.testing.assert_close(state["exp_avg"], torch.tensor([[0.01, 1e-4, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(state["hessian"], torch.tensor([[5e-4, 5e-8, 0.0]], dtype=torch.float64))


def test_soul_updates_the_momentum_twice():
    param = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = built("sophia_soul")([("w", param)])
    param.grad = torch.full((2, 2), 0.3, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], 0.19 * param.grad)


def test_eps_modes_differ_where_the_curvature_is_small():
    steps = {}
    for mode in ("max", "add"):
        param = torch.nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
        optimizer = Sophia([param], lr=1.0, gamma=1.0, eps=0.05, weight_decay=0.0, eps_mode=mode)
        param.grad = torch.ones(1, 1, dtype=torch.float64)  # m = 0.1, H = 0.05
        param.grad *= 0.5  # m = 0.05, H = 0.0125
        optimizer.step()
        steps[mode] = -param.item()
    assert steps == {"max": pytest.approx(1.0), "add": pytest.approx(0.05 / 0.0625)}


def test_sophia_g_keeps_its_hessian_between_updates():
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(3, 4))
    param = torch.nn.Parameter(torch.tensor(theta))
    optimizer = built("sophia_g", lr=0.01)([("w", param)])
    m, h, due = np.zeros((3, 4)), np.zeros((3, 4)), []
    for step in range(21):
        due.append(optimizer.hessian_due)
        if optimizer.hessian_due:
            sampled, predictions = rng.normal(size=(3, 4)), 100 + step
            param.grad = torch.tensor(sampled)
            optimizer.update_hessian(predictions)
            h = 0.99 * h + 0.01 * predictions * sampled**2
        g = rng.normal(size=(3, 4))
        param.grad = torch.tensor(g)
        optimizer.step()
        m = 0.965 * m + 0.035 * g
        theta = theta * (1 - 0.01 * 0.1) - 0.01 * np.clip(m / (0.04 * h + 1e-15), -1, 1)
        np.testing.assert_allclose(param.detach().numpy(), theta, rtol=0, atol=1e-13)
    assert [i for i, d in enumerate(due) if d] == [0, 10, 20]


def test_other_presets_never_ask_for_a_hessian():
    assert not built("sophia")([("w", torch.nn.Parameter(torch.ones(1, 1)))]).hessian_due


def test_sampled_labels_follow_the_model():
    # E[Σ −log p(ŷ)] = N · entropy; p = (0.8, 0.2): 0.5004 nats, standard deviation of the mean of 20000: 0.004
    logits = torch.tensor([0.8, 0.2]).log().expand(20000, 2)
    mean = sampled_nll(logits, torch.Generator().manual_seed(0)) / 20000
    assert mean.item() == pytest.approx(0.5004, abs=0.02)


@pytest.mark.parametrize("name", [*PRESETS, "sophia_g", "adamw"])
def test_no_decay_on_norms_and_biases(name):
    named = [
        (n, torch.nn.Parameter(torch.ones(shape)))
        for n, shape in (("q.weight", (2, 2)), ("norm.weight", (2,)), ("q.bias", (2,)))
    ]
    optimizer = built(name, lr=0.5)(named)
    for _, p in named:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert [p.mean().item() for _, p in named] == [pytest.approx(1 - 0.5 * 0.1), 1.0, 1.0]
    assert optimizer.param_groups[0]["param_names"] == ["q.weight"]


def test_adamw_is_torchs():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(x) for x in torch.randn(4, 4).repeat(2, 1, 1))
    a = built("adamw", lr=1e-2)([("w", ours)])
    b = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(4, 4)
        theirs.grad = ours.grad.clone()
        a.step()
        b.step()
    assert torch.equal(ours, theirs)


def test_pieces_and_layouts_do_not_change_the_update(monkeypatch):
    """Blocks of 5 elements over several tensors, one of them transposed in memory, against whole tensors."""
    torch.manual_seed(0)
    starts = [torch.randn(3, 4), torch.randn(5, 2).t(), torch.randn(7), torch.randn(1, 1)]
    results = []
    for block in (5, 10**9):
        monkeypatch.setattr("simu.optim.sophia.BLOCK_CPU", block)
        params = [torch.nn.Parameter(s.clone(memory_format=torch.preserve_format)) for s in starts]
        optimizer = Sophia(params, lr=0.1)
        for step in range(3):
            for i, p in enumerate(params):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i)) / 50
            optimizer.step()
        results.append(([p.detach() for p in params], optimizer.clipped_fraction))
    assert results[0][1] == results[1][1] > 0
    for a, b in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(a, b)


def test_resume_is_bit_equal():
    def run(steps, params, optimizer, first=0):
        for step in range(first, first + steps):
            params[0].grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(step))
            optimizer.step()

    whole = [torch.nn.Parameter(torch.ones(6, 6))]
    optimizer = built("sophia_g", lr=0.01)([("w", whole[0])])
    run(4, whole, optimizer)
    half = [torch.nn.Parameter(whole[0].detach().clone())]
    resumed = built("sophia_g", lr=0.01)([("w", half[0])])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[0]["steps"] == 4
    run(3, whole, optimizer, 4)
    run(3, half, resumed, 4)
    assert torch.equal(whole[0], half[0])


def test_parameters_without_gradient_stay_and_have_no_state():
    a, b = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = Sophia([a, b], lr=0.1)
    a.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(b, torch.ones(2, 2))
    assert b not in optimizer.state


def test_closure():
    param = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Sophia([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert (param < 1).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", -1e-5),
        ("betas", (0.9, 1.0)),
        ("gamma", 0.0),
        ("eps", 0.0),
        ("weight_decay", -0.1),
        ("momentum_updates", 3),
        ("hessian_interval", -1),
        ("lr", float("nan")),
        ("lr", 1e4),
        ("eps_mode", "min"),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(FieldError, match=field):
        BuildSophia(**{field: value})
    with pytest.raises(FieldError, match=field):
        Sophia([torch.nn.Parameter(torch.ones(1))], **{field: value})
    if field in ("lr", "betas", "eps", "weight_decay"):
        with pytest.raises(FieldError, match=field):
            BuildAdamW(**{field: value})
