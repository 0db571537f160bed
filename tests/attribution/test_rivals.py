"""The rivals against brute force: one row, or column, of one weight matrix, one token at a time, by autograd in
float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from float64 import watching_float32
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from simu.attribution import Activation
from simu.attribution.rivals import FisherRatio, GradNorm, MemFlex, RandomScores, Snip, Wagle, memflex
from simu.attribution.weight_gradients import fisher_information, summed_gradients
from simu.masks.top import Top
from simu.types import Scores, UserError

GPT2 = {"vocab_size": 61, "n_embd": 16, "n_inner": 24, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
LENGTHS, OTHER = [(3, 4), (2, 6), (4, 1)], [(2, 5), (3, 3)]
RIVALS = (GradNorm(), Snip(), Wagle(), Wagle(mu=0.5), FisherRatio(), FisherRatio(eps=0.3), MemFlex())
COMPARING = tuple(rival for rival in RIVALS if rival.reads_other)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "gemma"])
def family(request):
    return request.param


@pytest.fixture
def model(family, reference):
    return reference.model(family, **(GPT2 if family == "gpt2" else reference.small))


@pytest.fixture
def llama(reference):
    return reference.model("llama", **reference.small)


@pytest.fixture
def sides(reference):
    return reference.batch(LENGTHS), reference.batch(OTHER, seed=7)


def unit(module: nn.Module, weight: Tensor, k: int, kind: str = "row") -> Tensor:
    """The weights from all d_ff inputs to output k, or from input k to all outputs."""
    return weight[:, k] if isinstance(module, Conv1D) == (kind == "row") else weight[k]


def row_gradients(model, down, batch) -> list[tuple[int, list[Tensor]]]:
    """(n, ∂ Σ CE / ∂W of each layer as it is stored) of each row, token by token, each from its own prefix."""
    found = []
    for b in range(len(batch["labels"])):
        ids = batch["input_ids"][b][batch["attention_mask"][b].bool()]
        scored = [t for t in range(1, len(ids)) if batch["labels"][b, t] != -100]
        sums = [torch.zeros_like(module.weight) for module in down]
        for t in scored:
            ce = -torch.log_softmax(model(input_ids=ids[None, :t], use_cache=False).logits[0, -1], -1)[ids[t]]
            for total, gradient in zip(sums, torch.autograd.grad(ce, [m.weight for m in down]), strict=True):
                total += gradient
        found.append((len(scored), sums))
    return found


def brute_force(rival, model, down, own, other) -> Tensor:
    """float64 [L, units], unit by unit, weight by weight, as the formula is written."""
    sides = [row_gradients(model, down, batch) for batch in (own, other)]
    kind, units = rival.unit, {"row": 16, "hidden": 24}[rival.unit]
    scores = torch.zeros(len(down), units, dtype=torch.float64)
    for layer, module in enumerate(down):
        for k in range(units):
            w = unit(module, module.weight.detach(), k, kind)
            f, r = (sum(unit(module, g[layer], k, kind) for _, g in rows) for rows in sides)
            match rival:
                case GradNorm():
                    score = sum(x * x for x in f.tolist()) ** 0.5
                case Snip():
                    score = sum(abs(x * y) for x, y in zip(f.tolist(), w.tolist(), strict=True))
                case Wagle():
                    terms = zip(f.tolist(), r.tolist(), w.tolist(), strict=True)
                    score = sum(abs((z - y / rival.mu) * x) for x, y, z in terms)
                case FisherRatio():
                    fisher = [
                        sum(n * (unit(module, g[layer], k, kind) / n) ** 2 for n, g in rows) / sum(n for n, _ in rows)
                        for rows in sides
                    ]
                    score = sum(x / (rival.eps + y) for x, y in zip(*(s.tolist() for s in fisher), strict=True))
                case MemFlex():
                    same = float(f @ r) / (float(f @ f) ** 0.5 * float(r @ r) ** 0.5) >= rival.threshold
                    score = 0.0 if same else sum(abs(x) for x in f.tolist()) / len(f)
            scores[layer, k] = score
    return scores


@pytest.mark.parametrize("kind", ["row", "hidden"])
def test_equals_brute_force(kind, model, sides, reference):
    own, other = sides
    down = reference.down(model)
    found = {}
    with watching_float32() as narrow:
        gradients = summed_gradients(model, [own], "answer", kind)
        information = fisher_information(model, [own], "answer", kind)
    assert not narrow
    units = {"row": 16, "hidden": 24}[kind]
    assert all(g.shape == i.shape == (units, g.shape[1]) for g, i in zip(gradients, information, strict=True))
    for rival in (replace(rival, unit=kind) for rival in (*RIVALS, MemFlex(threshold=0.0))):
        found[repr(rival)] = rival(model, [own], against=[other])
        expected = brute_force(rival, model, down, own, other)
        assert reference.error(found[repr(rival)].double(), expected) < 1e-6, rival
        if rival != Wagle(unit=kind):  # at μ = 1e-6 W is nothing beside g'/μ, and the product of the two has no sides
            assert reference.error(rival(model, [other], against=[own]).double(), expected) > 1e-2, rival
    chosen = found[repr(MemFlex(threshold=0.0, unit=kind))] > 0
    assert 0 < int(chosen.sum()) < chosen.numel()  # the cosines have both signs


@pytest.mark.parametrize("rival", RIVALS, ids=repr)
def test_batches_and_order_do_not_matter(rival, llama, sides, reference):
    own, other = sides
    plain = rival(llama, [own], against=[other])

    def parts(batch, *chosen):
        return [{name: x[list(rows)] for name, x in batch.items()} for rows in chosen]

    for cut in (parts(own, [0], [1], [2]), parts(own, [2, 0], [1]), parts(own, [1, 2, 0])):
        for against in ([other], parts(other, [1], [0])):
            assert reference.error(rival(llama, cut, against=against), plain) < 1e-6


@pytest.mark.parametrize("rival", COMPARING, ids=repr)
def test_the_other_side_matters(rival, llama, sides, reference):
    own, other = sides
    with pytest.raises(UserError, match="compares with rows of the other side; allowed is against"):
        rival(llama, [own])
    assert reference.error(rival(llama, [own], against=[own]), rival(llama, [own], against=[other])) > 1e-2


def test_template_tokens_are_scored_when_asked(llama, sides, reference):
    """Which is the same as labelling them."""

    def tagged(batch):
        template = torch.zeros_like(batch["labels"])
        template[:, 1] = 1
        labels = batch["labels"].where(template == 0, batch["input_ids"])
        return batch | {"template": template}, batch | {"labels": labels}

    own, other = map(tagged, sides)
    for rival in (Snip, FisherRatio):
        asked = rival(tokens="template")(llama, [own[0]], against=[other[0]])
        assert reference.error(asked, rival()(llama, [own[1]], against=[other[1]])) < 1e-6
        assert reference.error(asked, rival()(llama, [own[0]], against=[other[0]])) > 1e-2


def test_memflex_by_hand():
    own = torch.tensor([[3.0, 4.0], [1.0, -3.0], [2.0, 0.0], [0.0, 0.0]])
    other = torch.tensor([[6.0, 8.0], [3.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    # the same direction; at right angles; beside nothing; nothing
    assert memflex(own, other, 0.92).tolist() == [0.0, 2.0, 1.0, 0.0]
    assert memflex(own, -other, 0.92).tolist() == [3.5, 2.0, 1.0, 0.0]


def test_fisher_weighs_a_row_by_its_tokens(llama, sides):
    """Two rows: (n₁·F₁ + n₂·F₂) / (n₁ + n₂), F of each by itself; 4 and 6 tokens."""
    own, _ = sides
    rows = [{name: x[i : i + 1] for name, x in own.items()} for i in range(2)]
    one, two = (fisher_information(llama, [row], "answer") for row in rows)
    for a, b, both in zip(one, two, fisher_information(llama, rows, "answer"), strict=True):
        torch.testing.assert_close(both, (4 * a + 6 * b) / 10)


def test_rows_that_score_nothing_weigh_nothing(llama, sides):
    own, other = sides
    silent = {**own, "labels": torch.full_like(own["labels"], -100)}
    for rival in RIVALS:
        assert rival(llama, [own, silent], against=[other, silent]).equal(rival(llama, [own], against=[other]))
    assert not GradNorm()(llama, [silent]).any()


def test_bfloat16_is_summed_in_float32(llama, sides):
    """256 equal additions: a sum in bfloat16 stands still long before."""
    own, _ = sides
    narrow = copy.deepcopy(llama).to(torch.bfloat16)
    (once,), (often,) = ([g.clone() for g in summed_gradients(narrow, [own] * n, "answer")[:1]] for n in (1, 256))
    assert once.dtype == often.dtype == torch.float32
    torch.testing.assert_close(often, 256 * once)


@pytest.mark.parametrize("rival", [GradNorm(), FisherRatio()], ids=repr)
def test_the_model_is_left_as_it_was(rival, llama, sides):
    """Gradients that were there, flags and modes too; and no other weight is given a gradient on the way."""
    own, other = sides
    down = {f"model.layers.{i}.mlp.down_proj.weight" for i in range(3)}
    kept = {name: torch.full_like(p, 0.5) for name, p in llama.named_parameters()}
    for name, p in llama.named_parameters():
        p.grad, p.requires_grad = kept[name], "norm" not in name
    needed: set[str] = set()
    hook = llama.lm_head.register_forward_hook(
        lambda *_: needed.update(name for name, p in llama.named_parameters() if p.requires_grad)
    )
    llama.train()
    rival(llama, [own], against=[other])
    hook.remove()
    assert needed == down
    assert llama.training
    for name, p in llama.named_parameters():
        assert p.grad is kept[name]
        assert p.grad.eq(0.5).all()
        assert p.requires_grad is ("norm" not in name)
    with pytest.raises(UserError, match="padded on the left"):
        rival(llama, [own | {"attention_mask": own["attention_mask"].flip(1)}], against=[other])


def test_random_is_uniform_and_follows_its_seed(reference):
    wide = reference.model("llama", **reference.small | {"hidden_size": 256, "head_dim": 64, "intermediate_size": 8})
    drawn = RandomScores(seed=1)(wide, [])
    assert drawn.shape == (3, 256)
    assert drawn.equal(RandomScores(seed=1)(wide, []))
    assert not drawn.equal(RandomScores(seed=2)(wide, []))
    assert RandomScores(unit="hidden")(wide, []).shape == (3, 8)
    assert 0 < float(drawn.min()) < float(drawn.max()) < 1
    counts = torch.histc(drawn, bins=8, min=0, max=1)  # 96 expected, standard deviation 9.2
    assert ((counts - 96).abs() < 37).all()


def test_weighted_activation_is_times_the_rows_norm(model, sides, reference):
    """MemPi's weighting, of rows: Σ_i |β_i| · ‖W[k]‖₂."""
    own, _ = sides
    plain = Activation()(model, [own]).double()
    norms = [
        [sum(x * x for x in unit(m, m.weight.detach(), k).tolist()) ** 0.5 for k in range(16)]
        for m in reference.down(model)
    ]
    weighted = Activation(weighted=True)(model, [own]).double()
    assert reference.error(weighted, plain * torch.tensor(norms, dtype=torch.float64)) < 1e-6


def test_counts_are_equal_whatever_the_localisation(llama, sides):
    own, other = sides
    scores = (rival(llama, [own], against=[other]) for rival in (*RIVALS, RandomScores()))
    masks = [Top(share=0.3)(Scores(values, 11), None, (3, 16)) for values in scores]
    assert {int(mask.sum()) for mask in masks} == {14}  # 14.4 of 48
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 4
