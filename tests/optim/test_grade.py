"""Signs, zeroth order, both in turns, and perturbed forget gradients: steps as computed by hand."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
from float64 import true_float64
from small import rows
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from simu.losses.forget.ascent import Ascent
from simu.losses.objective import Objective, teach
from simu.losses.retain.ce import CE
from simu.optim.perturb import SAM, NoPerturbation, Smoothing, sharpness_aware, smoothed
from simu.optim.signs import BuildSignAdam, BuildSignSGD
from simu.optim.zeroth import BuildHybrid, BuildZerothOrder
from simu.step import check_update
from simu.training import Training, train
from simu.types import UserError


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([values]))  # two dimensions: weight decay applies


def test_signsgd_by_hand():
    p, still = parameter(1.0, -2.0, 0.5), parameter(7.0)
    optimizer = BuildSignSGD(lr=0.1, weight_decay=0.5)([("p", p), ("still", still)])
    p.grad = torch.tensor([[0.3, -1e-9, 0.0]])
    optimizer.step()
    assert p.tolist() == [pytest.approx([0.95 - 0.1, -1.9 + 0.1, 0.475])]  # times 1 − 0.1 · 0.5, less 0.1 · sign
    assert still.item() == 7.0
    assert not optimizer.state


def test_sign_adam_follows_its_moment_by_hand():
    p = parameter(0.0, 0.0)
    optimizer = BuildSignAdam(lr=0.1, beta=0.75, weight_decay=0.0)([("p", p)])
    p.grad = torch.tensor([[1.0, -1.0]])
    optimizer.step()  # m = 0.25, −0.25
    p.grad = torch.tensor([[-0.5, 2.0]])
    optimizer.step()  # m = 0.1875 − 0.125 = 0.0625, −0.1875 + 0.5 = 0.3125
    assert p.tolist() == [pytest.approx([-0.2, 0.0])]
    assert optimizer.state[p]["exp_avg"].tolist() == [pytest.approx([0.0625, 0.3125])]
    assert {k for s in optimizer.state.values() for k in s} == {"exp_avg"}


def quadratic(parameters: list[nn.Parameter]) -> torch.Tensor:
    """Curved and tilted, the same in every call; its two-point slope along any direction is exact."""
    weights = torch.arange(1, 1 + sum(p.numel() for p in parameters), dtype=torch.float64)
    theta = torch.cat([p.detach().double().flatten() for p in parameters])
    return (weights * theta**2).sum() / 2 + theta.sum()


def gradient(parameters: list[nn.Parameter]) -> torch.Tensor:
    theta = torch.cat([p.detach().double().flatten() for p in parameters])
    return torch.arange(1, 1 + len(theta), dtype=torch.float64) * theta + 1


def doubles() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([[0.5, -1.0], [2.0, 0.25]]).double()), nn.Parameter(torch.tensor([1.5]).double())]


def zo_step(seed: int, **fields: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient before, displacement) of one step."""
    parameters = doubles()
    before = torch.cat([p.detach().flatten() for p in parameters])
    g = gradient(parameters)
    optimizer = BuildZerothOrder(**{"lr": 1e-2, "mu": 0.3, **fields})([(str(i), p) for i, p in enumerate(parameters)])
    optimizer.prepare(seed, 1, None)
    optimizer.step(lambda: float(quadratic(parameters)))
    assert not optimizer.state
    return g, torch.cat([p.detach().flatten() for p in parameters]) - before


def test_a_zeroth_order_step_is_minus_the_slope_along_a_unit_direction():
    """δ = −lr · (g·u) · u with ‖u‖ = 1, so g·δ = −‖δ‖² / lr; for any μ: a quadratic's central differences are exact."""
    for seed in range(5):
        for mu in (0.01, 3.0):
            g, moved = zo_step(seed, mu=mu)
            assert moved.norm() > 0
            torch.testing.assert_close(g @ moved, -moved.square().sum() / 1e-2, rtol=1e-6, atol=0)


def test_the_mean_estimate_is_the_gradient_over_the_number_of_parameters():
    estimates = [-zo_step(seed, draws=4)[1] / 1e-2 for seed in range(1500)]
    g, _ = zo_step(0)
    mean, error = torch.stack(estimates).mean(0), torch.stack(estimates).std(0) / len(estimates) ** 0.5
    assert ((mean - g / 5).abs() < 4 * error).all()
    assert (error < 0.1 * g.norm() / 5).all()


def test_directions_are_of_seed_and_step_and_weights_come_back_to_the_bit():
    assert torch.equal(zo_step(3)[1], zo_step(3)[1])
    assert not torch.equal(zo_step(3)[1], zo_step(4)[1])
    p = nn.Parameter(torch.randn(50, 7, generator=torch.Generator().manual_seed(0)))
    before, seen = p.detach().clone(), []
    optimizer = BuildZerothOrder(lr=1.0, mu=0.1)([("p", p)])

    def flat() -> float:
        seen.append(p.detach() - before)
        return 1.25

    for _ in range(2):
        assert optimizer.step(flat) == 1.25
    assert torch.equal(p, before)  # no slope: no step
    assert [round(float(d.norm()), 5) for d in seen] == [0.1] * 4  # μ away, over all parameters
    torch.testing.assert_close(seen[0], -seen[1], rtol=0, atol=1e-6)
    assert not torch.allclose(seen[0], seen[2], atol=1e-3)


def test_the_estimate_is_clipped_and_decay_is_decoupled():
    _, moved = zo_step(1)
    parameters = doubles()
    optimizer = BuildZerothOrder(lr=1e-2, mu=0.3)([(str(i), p) for i, p in enumerate(parameters)])
    optimizer.prepare(1, 1, 0.25)
    before = torch.cat([p.detach().flatten() for p in parameters])
    optimizer.step(lambda: float(quadratic(parameters)))
    clipped = torch.cat([p.detach().flatten() for p in parameters]) - before
    assert optimizer.norm == pytest.approx(float(moved.norm()) / 1e-2)
    torch.testing.assert_close(clipped, moved * 0.25 / optimizer.norm, rtol=1e-4, atol=0)
    p = parameter(2.0)
    BuildZerothOrder(lr=0.1, weight_decay=0.5)([("p", p)]).step(lambda: 0.0)
    assert p.item() == pytest.approx(2.0 * 0.95)
    with pytest.raises(ValueError, match="closure"):
        BuildZerothOrder()([("p", p)]).step()


def test_hybrid_ends_on_zeroth_order_and_its_first_order_steps_are_adamw():
    p = parameter(1.0, -1.0, 3.0)
    twin = nn.Parameter(p.detach().clone())
    optimizer = BuildHybrid(lr=0.01, zeroth_lr=5.0, period=2, mu=0.1)([("p", p)])
    plain = torch.optim.AdamW([twin], lr=0.01, weight_decay=0.0)
    optimizer.prepare(0, 5, None)
    due = []
    for _ in range(5):
        due.append(optimizer.zeroth_due)
        if due[-1]:
            optimizer.step(lambda: 2.0)  # flat: stays
        else:
            p.grad, twin.grad = p.detach() * 2, twin.detach() * 2
            optimizer.step()
            plain.step()
            p.grad = None
        assert torch.equal(p, twin)
    assert due == [True, False, False, True, True]
    other = nn.Parameter(p.detach().clone())
    resumed = BuildHybrid(lr=0.01, zeroth_lr=5.0, period=2, mu=0.1)([("p", other)])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, weight in ((optimizer, p), (resumed, other)):
        each.prepare(0, 8, None)
        assert not each.zeroth_due
        weight.grad = torch.ones_like(weight)
        each.step()
    assert torch.equal(p, other)


def half_square(parameters: list[nn.Parameter]):
    def add(factor: float) -> float:
        loss = sum((p**2).sum() / 2 for p in parameters)
        (factor * loss).backward()
        return float(loss.detach())

    return add


def test_sam_by_hand():
    """f = ‖θ‖²/2 at (3, 4): uphill is (0.6, 0.8), and the gradient is the point itself."""
    p, q = parameter(3.0), parameter(4.0)
    assert sharpness_aware(half_square([p, q]), [p, q], rho=0.5) == 12.5
    assert (p.grad.item(), q.grad.item()) == (pytest.approx(3.3), pytest.approx(4.4))
    assert (p.item(), q.item()) == (3.0, 4.0)
    zero = parameter(0.0, 0.0)
    assert SAM(rho=0.5)(half_square([zero]), [zero], (0, 1)) == 0.0
    assert zero.grad.tolist() == [[0.0, 0.0]]


def test_smoothing_is_the_mean_over_draws():
    """f = ‖θ‖²/2: the gradient is θ + σ · (z_1 + z_2 + z_3) / 3, whose noise has the deviation σ / √3."""
    p = nn.Parameter(torch.full((200, 100), 2.0).double())
    loss = smoothed(half_square([p]), [p], 0.3, 3, (5, 1))
    noise = (p.grad - 2.0) / 0.3
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(3**-0.5, rel=0.03)
    assert loss == pytest.approx(20000 * (4 + 0.09) / 2, rel=0.01)
    assert (p == 2.0).all()
    first, p.grad = p.grad, None
    Smoothing(sigma=0.3)(half_square([p]), [p], (5, 1))
    assert torch.equal(first, p.grad)
    p.grad = None
    Smoothing(sigma=0.3)(half_square([p]), [p], (5, 2))
    assert not torch.equal(first, p.grad)


FORGET, RETAIN = rows(4, 1), rows(4, 2)


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    return true_float64(LlamaForCausalLM(LlamaConfig(vocab_size=97, num_key_value_heads=2, **sizes)))


def mean_loss(one: LlamaForCausalLM, some) -> torch.Tensor:
    """Row by row, the plain way."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in some:
        ids = torch.tensor([row.prompt + row.answer])
        logits = one(ids).logits[0, len(row.prompt) - 1 : -1]
        total = total + nn.functional.cross_entropy(logits, torch.tensor(row.answer), reduction="sum")
        count += len(row.answer)
    return total / count


@pytest.mark.parametrize("tokens", [None, 1])
def test_a_step_with_sam_is_gamma_g_f_uphill_and_lambda_g_r_where_it_stands(tokens):
    one, by_hand, rho, lr = model(), model(), 0.05, 0.1
    objective = Objective(forget=Ascent(), retain=CE(), forget_weight=0.7, retain_weight=2.0)
    train(
        one,
        one,
        torch.optim.SGD(one.parameters(), lr=lr),
        objective,
        FORGET,
        RETAIN[:1],
        settings=Training(
            epochs=1, batch_size=4, micro_batch_tokens=tokens, warmup=0, clip_norm=None, schedule="constant"
        ),
        perturbation=SAM(rho=rho),
        pad_id=0,
    )
    weights = list(by_hand.parameters())
    uphill = torch.autograd.grad(-0.7 * mean_loss(by_hand, FORGET), weights)
    norm = torch.cat([g.flatten() for g in uphill]).norm()
    kept = torch.autograd.grad(2.0 * mean_loss(by_hand, RETAIN[:1]), weights)
    with torch.no_grad():
        for w, g in zip(weights, uphill, strict=True):
            w.add_(rho * g / norm)
    there = torch.autograd.grad(-0.7 * mean_loss(by_hand, FORGET), weights)
    plain = model()
    for w, start, a, b in zip(one.parameters(), plain.parameters(), there, kept, strict=True):
        torch.testing.assert_close(w, start - lr * (a + b), rtol=0, atol=1e-12)


def test_zeroth_order_trains_without_a_graph_and_lowers_the_objective():
    one = model()
    before = float(mean_loss(one, RETAIN).detach())
    optimizer = BuildZerothOrder(lr=20.0, mu=0.1, draws=4)(one.named_parameters())
    settings = Training(epochs=60, batch_size=4, warmup=0, clip_norm=None)
    result = train(one, one, optimizer, teach(), RETAIN, settings=settings, pad_id=0)
    assert all(p.grad is None for p in one.parameters())
    assert result.records[0]["forget_loss"] == pytest.approx(before, abs=1e-3)
    assert float(mean_loss(one, RETAIN).detach()) < before - 0.05


class Watched(Ascent):
    """Says of each call whether a graph was made."""

    graphs: ClassVar[list[bool]] = []

    def __call__(self, model, batch, reference=None):
        self.graphs.append(torch.is_grad_enabled())
        return super().__call__(model, batch, reference)


def test_hybrid_makes_a_graph_in_its_first_order_steps_alone():
    one = model()
    objective = Objective(forget=Watched(), retain=CE(), retain_weight=1.0)
    optimizer = BuildHybrid(period=2, draws=3)(one.named_parameters())
    settings = Training(epochs=4, batch_size=4, micro_batch_tokens=None)
    train(one, one, optimizer, objective, FORGET, RETAIN, settings=settings, pad_id=0)
    two_steps_of_adamw, two_of_three_directions = [True] * 2, [False] * (2 * 3 * 2)
    assert Watched.graphs == two_steps_of_adamw + two_of_three_directions


def test_a_zeroth_order_step_is_the_same_for_any_micro_batches():
    """Its losses are the whole step's, with the divisor of the whole step."""
    ends = []
    for tokens in (None, 1):
        one = model()
        optimizer = BuildZerothOrder(lr=5.0, mu=0.1)(one.named_parameters())
        settings = Training(epochs=2, batch_size=4, micro_batch_tokens=tokens, warmup=0, clip_norm=None)
        train(one, one, optimizer, teach(), FORGET, settings=settings, pad_id=0, seed=3)
        ends.append(torch.cat([p.detach().flatten() for p in one.parameters()]))
    start = torch.cat([p.detach().flatten() for p in model().parameters()])
    assert (ends[0] - start).norm() > 1e-2
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)


def test_what_does_not_go_together_is_refused():
    for optimizer in (BuildZerothOrder(), BuildHybrid()):
        with pytest.raises(UserError, match="perturbation=sam: a zeroth-order optimizer takes no gradient"):
            check_update(optimizer, SAM(), False)
        with pytest.raises(UserError, match="optimizer=zo or hybrid: a shard"):
            check_update(optimizer, NoPerturbation(), True)
    with pytest.raises(UserError, match="perturbation=smoothing: a shard"):
        check_update(BuildSignSGD(), Smoothing(), True)
    check_update(BuildSignSGD(), SAM(), True)
