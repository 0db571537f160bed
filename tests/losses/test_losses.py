"""Golden values by hand: a bigram model over three tokens, whose probabilities are fractions.

P(next | token), the model            P₀, the untouched model
  0: 1/2  1/4  1/4                      0: 1/3  1/3  1/3
  1: 1/5  3/10 1/2                      1: 1/2  1/4  1/4
  2: 1/4  1/4  1/2                      2: 1/4  1/2  1/4

row A: prompt 1, answer 2 0:   P = 1/2 · 1/4 = 1/8   P₀ = 1/4 · 1/4 = 1/16   refusal 0: P = 1/5,  P₀ = 1/2
row B: prompt 2 1, answer 0:   P = 1/5               P₀ = 1/2                refusal 1: P = 3/10, P₀ = 1/4
"""

from __future__ import annotations

from math import log, sqrt
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from simu.data.batching import Encoded, collate
from simu.data.refusals import REFUSALS, refusals
from simu.losses import logprobs
from simu.losses.forget.altpo import AltPO
from simu.losses.forget.ascent import Ascent
from simu.losses.forget.ceu import CEU
from simu.losses.forget.dpo import DPO
from simu.losses.forget.idk import IDK
from simu.losses.forget.npo import NPO
from simu.losses.forget.pdu import PDU
from simu.losses.forget.rmu import RMU, steering_vector
from simu.losses.forget.satimp import SatImp
from simu.losses.forget.simnpo import SimNPO
from simu.losses.forget.undial import UNDIAL
from simu.losses.forget.wga import WGA
from simu.losses.retain.ce import CE
from simu.losses.retain.hidden import Hidden
from simu.losses.retain.kl import KL
from simu.losses.retain.none import NoRetain
from simu.models import forward
from simu.models.reference import Reference, untouched_head
from simu.types import Example, FieldError, UserError

NOW = [[1 / 2, 1 / 4, 1 / 4], [1 / 5, 3 / 10, 1 / 2], [1 / 4, 1 / 4, 1 / 2]]
THEN = [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4]]
A, B = Encoded((1,), (2, 0)), Encoded((2, 1), (0,))
C = Encoded((1,), (2, 0, 1))
REFUSED_A, REFUSED_B = Encoded((1,), (0,)), Encoded((2, 1), (1,))
NLL = log(2 * 4 * 5) / 3  # −log of 1/2, 1/4, 1/5


class Bigram(nn.Module):
    """Logits are the log-probabilities of the table's row, up to a constant of each row, through a head that trains."""

    def __init__(self, table: list[list[float]], head_trains: bool = False):
        super().__init__()
        states = torch.tensor(table, dtype=torch.float64).log() + torch.tensor([[5.0], [-2.0], [0.5]])
        self.embed = nn.Embedding.from_pretrained(states, freeze=False)
        self.head = nn.Linear(3, 3, bias=False, dtype=torch.float64)
        self.head.weight = nn.Parameter(torch.eye(3, dtype=torch.float64), requires_grad=head_trains)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids, attention_mask, use_cache):
        return SimpleNamespace(logits=self.head(self.embed(input_ids)))


def batch(*rows: Encoded):
    return collate(rows, pad_id=0)


def remembered(loss, *rows: Encoded) -> Reference:
    """What the loss keeps of the untouched model."""
    then = Bigram(THEN)
    values = loss.remember(then, batch(*rows))
    assert len(values) == len(rows)
    return Reference(torch.cat(values), untouched_head(then))


def mean(loss) -> float:
    return float(loss.total.detach()) / loss.count


CASES = [
    # loss, rows, expected mean
    (Ascent(), (A, B), -NLL),
    (CE(), (A, B), NLL),
    (IDK(), (REFUSED_A, REFUSED_B), (log(5) + log(10 / 3)) / 2),
    # −(2/β)·log σ(−β·log r) = (2/β)·log(1 + r^β), r = P/P₀: 2 and 2/5
    (NPO(beta=1.0), (A, B), log(3) + log(7 / 5)),
    (NPO(beta=2.0), (A, B), (log(5) + log(1 + 4 / 25)) / 2),
    # (2/β)·log(1 + (lose/win)^β); win/lose: (2/5)/2 and (6/5)/(2/5)
    (DPO(beta=1.0), (A, B, REFUSED_A, REFUSED_B), log(1 + 5) + log(1 + 1 / 3)),
    (DPO(beta=2.0), (A, B, REFUSED_A, REFUSED_B), (log(1 + 25) + log(1 + 1 / 9)) / 2),
    # the same with an alternative in the refusal's place: 1 behind 1 (P 3/10, P₀ 1/4) and, behind 2 1, 2 (1/2, 1/4):
    # win/lose: (6/5)/2 and 2/(2/5)
    (AltPO(beta=1.0), (A, B, Encoded((1,), (1,)), Encoded((2, 1), (2,))), log(1 + 5 / 3) + log(1 + 1 / 5)),
    # (2/β)·log(1 + (e^δ·P^(1/n))^β)
    (SimNPO(beta=2.0), (A, B), (log(1 + 1 / 8) + log(1 + 1 / 25)) / 2),
    (SimNPO(beta=2.0, delta=log(2)), (A, B), (log(1 + 4 / 8) + log(1 + 4 / 25)) / 2),
    (SimNPO(beta=1.0), (A, B), log(1 + sqrt(1 / 8)) + log(1 + 1 / 5)),
    (WGA(beta=1.0), (A, B), -(log(2) / 2 + log(4) / 4 + log(5) / 5) / 3),
    (WGA(beta=2.0), (A, B), -(log(2) / 4 + log(4) / 16 + log(5) / 25) / 3),
    (WGA(beta=0.0), (A, B), -NLL),
    (
        SatImp(beta1=2.0, beta2=1.0),
        (A, B),
        -(log(2) / 4 / 2 + log(4) / 16 * 3 / 4 + log(5) / 25 * 4 / 5) / 3,
    ),
    # q: P₀ of 1 is (1/2, 1/4, 1/4), of 2 (1/4, 1/2, 1/4). β = log 2 halves the answer's weight and the rest is scaled:
    # 2|1: (4, 2, 1)/7, 0|2: (1, 4, 2)/7, 0|1: (1, 1, 1)/3
    (
        UNDIAL(beta=log(2)),
        (A, B),
        -(
            (4 * log(1 / 5) + 2 * log(3 / 10) + log(1 / 2)) / 7
            + (log(1 / 4) + 4 * log(1 / 4) + 2 * log(1 / 2)) / 7
            + (log(1 / 5) + log(3 / 10) + log(1 / 2)) / 3
        )
        / 3,
    ),
    # of A and B answers' first tokens are left out: what remains is 0|2. q = (0, 1/4, 1/2) / (3/4), p = (1/4, 1/4, 1/2)
    (CEU(), (A, B), (log(4) + 2 * log(2)) / 3),
    # of (2, 0, 1), with 0|2 and 1|0 after the first: q is (0, 1, 2)/3 and (2, 0, 1)/3, p (1, 1, 2)/4 and (2, 1, 1)/4
    (CEU(), (C, B), (log(4) + 2 * log(2) + 2 * log(2) + log(4)) / 6),
    # max − mean of log p: 1/2 against (1/5·3/10·1/2)^(1/3), 1/2 against 32^(−1/3), 1/2 against the former again
    (PDU(), (A, B), (2 * (log(25 / 6) / 3) ** 2 + (log(4) / 3) ** 2) / 3),
]


@pytest.mark.parametrize(("loss", "rows", "expected"), CASES, ids=lambda x: getattr(type(x), "__name__", ""))
def test_token_and_row_losses_by_hand(loss, rows, expected):
    reference = remembered(loss, *rows) if loss.needs_reference else None
    got = loss(Bigram(NOW), batch(*rows), reference)
    assert mean(got) == pytest.approx(expected, rel=1e-12)
    tokens = sum(len(r.answer) for r in rows)
    assert got.count == {"token": tokens, "later_token": tokens - len(rows), "row": 2}[loss.unit]


def test_no_retain_is_zero_and_reads_no_rows():
    got = NoRetain()(Bigram(NOW), batch(A, B))
    assert (float(got.total), got.count, NoRetain.reads_rows) == (0.0, 2, False)
    assert CE.reads_rows
    assert KL.reads_rows
    assert Hidden.reads_rows


def test_kl_by_hand():
    of_1 = 1 / 2 * log(5 / 2) + 1 / 4 * log(5 / 6) + 1 / 4 * log(1 / 2)  # Σ P₀·log(P₀/P) behind token 1
    of_2 = 1 / 2 * log(2) + 1 / 4 * log(1 / 2)
    got = KL()(Bigram(NOW), batch(A, B), remembered(KL(), A, B))
    assert mean(got) == pytest.approx((of_1 + of_2 + of_1) / 3, rel=1e-12)
    assert (got.count, KL.unit) == (3, "token")


@pytest.mark.parametrize("head_trains", [False, True])
def test_the_untouched_head_stays_untouched(head_trains):
    """KL to oneself is 0, and its value counts from the old head also when the present one has trained on."""
    model = Bigram(THEN, head_trains)
    values = KL().remember(model, batch(A, B))
    reference = Reference(torch.cat(values).detach(), untouched_head(model))
    assert mean(KL()(model, batch(A, B), reference)) == pytest.approx(0.0, abs=1e-15)
    if head_trains:
        with torch.no_grad():
            model.head.weight.mul_(0.0)  # the model's distribution is uniform now
        of_1, of_2 = log(3) - 1.5 * log(2), log(3) - 1.5 * log(2)  # log 3 − entropy of (1/2, 1/4, 1/4)
        got = KL()(model, batch(A, B), reference)
        assert mean(got) == pytest.approx((2 * of_1 + of_2) / 3, rel=1e-12)
        got.total.backward()
        assert reference.head.weight.grad is None


@pytest.mark.parametrize(
    ("loss", "weight"),
    [(WGA(beta=2.0), lambda p: p**2), (SatImp(beta1=2.0, beta2=1.0), lambda p: p**2 * (1 - p))],
    ids=["WGA", "SatImp"],
)
def test_token_weights_carry_no_gradient(loss, weight):
    """∇ of w·log p with w fixed is w·(e_y − P) on the logits; here on the table's rows."""
    model = Bigram(NOW)
    loss(model, batch(A, B)).total.backward()
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for token, target in ((1, 2), (2, 0), (1, 0)):
        p = torch.tensor(NOW[token], dtype=torch.float64)
        expected[token] += weight(p[target]) * (nn.functional.one_hot(torch.tensor(target), 3) - p)
    torch.testing.assert_close(model.embed.weight.grad, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("loss", [UNDIAL(), KL(), Ascent()], ids=lambda x: type(x).__name__)
def test_values_do_not_depend_on_the_chunk(loss, monkeypatch):
    results = []
    reference = remembered(loss, A, B) if loss.needs_reference else None
    for chunk in (128, 1, 2):
        for module in (forward, logprobs):
            monkeypatch.setattr(module, "CHUNK", chunk)
        model = Bigram(NOW)
        got = loss(model, batch(A, B), reference)
        got.total.backward()
        results.append((got.total.item(), model.embed.weight.grad))
    for value, gradient in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-14)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-14)


# RMU looks inside a block, so a real decoder; its values from the hidden states that transformers itself returns.


def hidden_states(model, row: Encoded, layer: int) -> torch.Tensor:
    """Output of block `layer` [T, D]."""
    with torch.no_grad():
        return model(torch.tensor([row.prompt + row.answer]), output_hidden_states=True).hidden_states[layer + 1][0]


ROW_1, ROW_2 = Encoded((5, 9, 11), (3, 8)), Encoded((7,), (20, 30, 41, 2))


def test_rmu_by_transformers_hidden_states(tiny_llama):
    direction = torch.rand(16, generator=torch.Generator().manual_seed(7)).double()
    aim = 3.0 * direction / direction.pow(2).sum().sqrt()
    # the direction is normalised in float32, as it is drawn: some units in the last place
    torch.testing.assert_close(steering_vector(16, 3.0, 7).double(), aim, rtol=4 * 2**-23, atol=0)
    answers = [hidden_states(tiny_llama, ROW_1, 0)[3:], hidden_states(tiny_llama, ROW_2, 0)[1:]]
    expected = [(((h - steering_vector(16, 3.0, 7).double()) ** 2).sum(1) / 16).mean() for h in answers]
    got = RMU(steering_coeff=3.0, layer=0, seed=7)(tiny_llama, batch(ROW_1, ROW_2))
    assert mean(got) == pytest.approx(sum(expected).item() / 2, rel=1e-12)
    assert (got.count, RMU.unit) == (2, "row")


def test_hidden_is_the_mean_square_of_what_moved(tiny_llama):
    loss = Hidden(layer=0)
    then = [hidden_states(tiny_llama, ROW_1, 0)[3:], hidden_states(tiny_llama, ROW_2, 0)[1:]]
    values = [v.detach() for v in loss.remember(tiny_llama, batch(ROW_1, ROW_2))]
    for value, expected in zip(values, then, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-14)
    reference = Reference(torch.cat(values) + 0.5, untouched_head(tiny_llama))
    got = loss(tiny_llama, batch(ROW_1, ROW_2), reference)
    assert mean(got) == pytest.approx(0.25, rel=1e-12)
    assert (got.count, Hidden.unit) == (2, "row")


def test_rmu_runs_and_trains_the_blocks_up_to_its_layer_only(tiny_llama):
    above = []
    tiny_llama.model.layers[1].register_forward_hook(lambda *_: above.append(1))
    RMU(layer=0)(tiny_llama, batch(ROW_1)).total.backward()
    assert not above
    assert tiny_llama.model.layers[0].mlp.down_proj.weight.grad.abs().max() > 0
    assert tiny_llama.model.layers[1].mlp.down_proj.weight.grad is None


@pytest.mark.parametrize(("loss", "term"), [(RMU(layer=2), "forget"), (Hidden(layer=2), "retain")])
def test_a_layer_that_the_model_has_not_is_refused(tiny_llama, loss, term):
    call = loss.remember if loss.needs_reference else loss
    with pytest.raises(UserError, match=rf"^objective\.{term}\.layer=2: allowed is 0 ≤ layer < 2 for this model$"):
        call(tiny_llama, batch(ROW_1))


def test_refusals_are_drawn_by_the_seed_and_keep_the_question():
    examples = [Example(id=str(i), prompt=f"q{i}", answer="a") for i in range(40)]
    once, again, other = refusals(examples, 1), refusals(examples, 1), refusals(examples, 2)
    assert once == again != other
    assert [e.prompt for e in once] == [e.prompt for e in examples]
    assert {e.answer for e in once} <= set(REFUSALS)
    assert len({e.answer for e in once}) > 5


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (NPO, "beta", 0.0),
        (DPO, "beta", 0.0),
        (AltPO, "beta", 0.0),
        (AltPO, "alternatives", 0),
        (SimNPO, "beta", 0.0),
        (UNDIAL, "beta", -1.0),
        (WGA, "beta", -1.0),
        (SatImp, "beta1", -1.0),
        (SatImp, "beta2", -1.0),
        (RMU, "steering_coeff", 0.0),
        (RMU, "layer", -1),
        (RMU, "layer", 4096),
        (RMU, "seed", 2**63),
        (Hidden, "layer", -1),
    ],
)
def test_ranges(cls, field, value):
    with pytest.raises(FieldError, match=f"{field}={value}"):
        cls(**{field: value})
