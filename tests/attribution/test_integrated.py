"""The engine against brute force: every architecture, every switch."""

import math

import pytest
import torch
from small import ATTRIBUTION_SWITCHES, SMALL

from simu.attribution import Integrated, count_samples, neuron_attribution
from simu.attribution.exact import completeness
from simu.attribution.path import RULES, path_points
from simu.types import FieldError, UserError


def neuron_sums(model, batches, **settings):
    """Before rounding to float32."""
    return neuron_attribution(model, batches, dtype=torch.float64, **settings)


MIXED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
ARCHITECTURES = {
    "llama": ("llama", SMALL),
    "llama, tied, biases": ("llama", SMALL | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama, eager": ("llama", SMALL | {"attn_implementation": "eager"}),
    "olmo": ("olmo", SMALL | {"clip_qkv": 1.0, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", SMALL),
    "olmo3": ("olmo3", SMALL | MIXED),
    "mistral": ("mistral", SMALL | {"sliding_window": None}),
    "mistral, window": ("mistral", SMALL | {"sliding_window": 4}),
    "mistral, window, eager": ("mistral", SMALL | {"sliding_window": 4, "attn_implementation": "eager"}),
    "qwen2": ("qwen2", SMALL),
    "qwen2, window": ("qwen2", SMALL | MIXED | {"use_sliding_window": True}),
    "qwen3": ("qwen3", SMALL),
    "gemma": ("gemma", SMALL),
    "gemma2": ("gemma2", SMALL | MIXED | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0}),
    "gemma3": ("gemma3_text", SMALL | MIXED | {"final_logit_softcapping": 2.0}),
    "phi": ("phi", SMALL | {"qk_layernorm": True}),
    "phi3": ("phi3", SMALL | {"sliding_window": 4}),
    "gpt_neox, parallel": ("gpt_neox", SMALL | {"use_parallel_residual": True}),
    "gpt_neox, sequential": ("gpt_neox", SMALL | {"use_parallel_residual": False}),
    "gpt2": ("gpt2", {"vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}),
    "opt": ("opt", SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "opt, norm after": ("opt", SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_brute_force(name, reference):
    model_type, kwargs = ARCHITECTURES[name]
    kwargs = dict(kwargs)
    attention = kwargs.pop("attn_implementation", None)
    model = reference.model(model_type, **kwargs)
    if attention:
        model.set_attn_implementation(attention)
    batch = reference.batch([(4, 7), (2, 3)])  # answers past the window of 4; the second row is padded
    expected = reference.total(reference.samples(model, batch, m=3))
    got = neuron_sums(model, [batch], m=3)
    assert reference.error(got, expected) < 1e-12


@pytest.fixture
def llama(reference):
    return reference.model("llama", **reference.small)


@pytest.mark.parametrize("switch", ATTRIBUTION_SWITCHES, ids=str)
def test_every_switch_equals_its_brute_force_and_changes_the_scores(switch, llama, batch, reference):
    settings = {"m": 3} | switch
    got = neuron_sums(llama, [batch], **settings)
    absolute = settings.pop("reduction", "signed") == "absolute"
    force = reference.sequence if settings.pop("position", "next_token") == "sequence" else reference.samples
    assert reference.error(got, reference.total(force(llama, batch, **settings), absolute)) < 1e-12
    assert reference.error(got, neuron_sums(llama, [batch], m=3)) > 1e-2


UNEVEN = [(0.1, 0.6), (0.4, 1.5), (1.0, 0.9)]  # its last node is the clean end, which all layers share


@pytest.mark.parametrize("switch", [{}, {"layers": "all"}, {"position": "sequence"}, {"max_memory": 0.0002}], ids=str)
def test_a_path_rule_with_weights_is_one_more_entry(switch, llama, batch, reference, monkeypatch):
    monkeypatch.setitem(RULES, "uneven", lambda m: tuple(map(list, zip(*UNEVEN, strict=True))))
    got = neuron_sums(llama, [batch], m=3, path="uneven", **switch)
    force = reference.sequence if "position" in switch else reference.samples
    expected = reference.total(force(llama, batch, m=3, path=UNEVEN, layers=switch.get("layers", "single")))
    assert reference.error(got, expected) < 1e-12


def test_path_points_by_hand():
    assert path_points(4, "right") == ([0.25, 0.5, 0.75, 1.0], [1.0] * 4)
    assert path_points(4, "left") == ([0.0, 0.25, 0.5, 0.75], [1.0] * 4)
    assert path_points(2, "midpoint") == ([0.25, 0.75], [1.0, 1.0])
    assert path_points(1, "gauss") == ([0.5], [1.0])
    nodes, weights = path_points(3, "gauss")
    assert nodes == pytest.approx([0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)], abs=1e-15)
    assert weights == pytest.approx([3 * 5 / 18, 3 * 8 / 18, 3 * 5 / 18], abs=1e-15)
    with pytest.raises(FieldError, match="path='down': allowed is gauss, right, left, midpoint"):
        path_points(2, "down")


def test_sequence_with_gaps_between_scored_tokens(llama, batch, reference):
    batch["labels"][1, 4] = -100  # a second turn: an unscored token between scored ones
    for layers in ("single", "all"):
        expected = reference.total(reference.sequence(llama, batch, m=2, layers=layers))
        got = neuron_sums(llama, [batch], m=2, position="sequence", layers=layers)
        assert reference.error(got, expected) < 1e-12


def test_template_tokens_are_scored_when_asked(llama, batch, reference):
    batch["template"] = torch.zeros_like(batch["labels"])
    batch["template"][0, 2] = 1
    batch["template"][:, 0] = 1  # nothing predicts a row's first token
    more = {**batch, "labels": batch["labels"].clone()}
    more["labels"][0, 2] = batch["input_ids"][0, 2]
    expected = reference.total(reference.samples(llama, more, m=2))
    got = neuron_sums(llama, [batch], m=2, tokens="template")
    assert reference.error(got, expected) < 1e-12
    assert (count_samples([batch]), count_samples([batch], "template")) == (10, 11)


def test_groups_split_the_sum(llama, reference):
    batch = reference.batch([(3, 4), (2, 6), (4, 2)])
    batch["group"] = torch.tensor([2, 0, 2])
    samples = reference.samples(llama, batch, m=2)
    got = neuron_attribution(llama, [batch], m=2, groups=3).double()
    assert got.shape == (3, 3, 16)
    assert reference.error(got[0], sum(a for b, a in samples if b == 1)) < 1e-6
    assert reference.error(got[2], sum(a for b, a in samples if b != 1)) < 1e-6
    assert not got[1].any()


def test_sum_of_scores_is_the_change_of_log_probability(llama, batch):
    """Completeness of the path integral (Sundararajan et al. 2017): Σ_k Att(l, k) → Σ_i L_i(β) - L_i(0)."""
    fine = neuron_sums(llama, [batch], m=400, path="midpoint").sum(1)
    rough, off = neuron_attribution(llama, [batch], m=2, path="right", dtype=torch.float64, return_completeness=True)
    down = llama.model.layers[1].mlp.down_proj
    change = 0.0
    for b in range(2):
        n = int(batch["attention_mask"][b].sum())
        for t in (t for t in range(1, n) if batch["labels"][b, t] != -100):
            prefix, y = batch["input_ids"][b : b + 1, :t], batch["input_ids"][b, t]
            with torch.no_grad():
                whole = torch.log_softmax(llama(prefix).logits[0, -1], -1)[y]
                handle = down.register_forward_hook(
                    lambda _, __, o: o * (torch.arange(o.shape[1]) < o.shape[1] - 1)[None, :, None]
                )
                without = torch.log_softmax(llama(prefix).logits[0, -1], -1)[y]
                handle.remove()
            change += float(whole - without)
    assert float(fine[1]) == pytest.approx(change, rel=1e-4)
    assert float(off[1]) == pytest.approx(abs(float(rough[1].sum()) - change) / abs(change), rel=1e-9)


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"layers": "all"},
        {"position": "sequence"},
        {"position": "sequence", "layers": "all"},
        {"objective": "prob"},
        {"objective": "nll"},
        {"groups": 2},
        {"max_memory": 0.0002},
        {"path": "right"},
    ],
    ids=str,
)
def test_completeness_goes_to_0_with_the_points_and_not_before(switch, llama, reference):
    batch = reference.batch([(3, 4), (2, 6)]) | {"group": torch.tensor([0, 1])}
    found = {
        m: neuron_attribution(llama, [batch], return_completeness=True, **{"m": m, "path": "gauss"} | switch)[1]
        for m in (1, 24)
    }
    assert found[1].shape == (3,)
    assert float(found[1].min()) > 1e-3
    assert float(found[24].max()) < float(found[1].max()) / (3 if switch.get("path") == "right" else 50)


def test_completeness_of_absolute_scores_is_not_defined(llama, batch):
    scores, off = neuron_attribution(llama, [batch], m=2, reduction="absolute", return_completeness=True)
    assert scores.shape == (3, 16)
    assert off is None


def test_completeness_by_hand():
    """Layers of scores 1, 2 and 3, -1 that should add up to 4 and 2."""
    sums = torch.tensor([[1.0, 2.0, 4.0], [3.0, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert completeness(sums).tolist() == [0.25, 0.0, 0.0]
    joint = torch.tensor([[1.0, 2.0, 4.0], [3.0, -1.0, 4.0]], dtype=torch.float64)
    assert completeness(joint, together=True).tolist() == [0.25, 0.25]


def test_batching_and_order_do_not_matter(llama, reference):
    lengths = [(3, 4), (2, 6), (5, 1), (1, 3)]
    whole = reference.batch(lengths)
    one = [{k: v[i : i + 1] for k, v in whole.items()} for i in (2, 0, 3, 1)]
    assert reference.error(neuron_sums(llama, one, m=3), neuron_sums(llama, [whole], m=3)) < 1e-12


def test_recomputation_gives_the_same(llama, batch, reference):
    same = neuron_sums(llama, [batch], m=3, recompute=True)
    assert reference.error(same, neuron_sums(llama, [batch], m=3, recompute=False)) < 1e-12


def test_the_model_is_left_as_it_was(llama, batch):
    llama.train()
    llama.model.layers[1].eval()
    llama.lm_head.weight.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in llama.named_parameters()}
    neuron_attribution(llama, [batch], m=2)
    assert llama.training
    assert not llama.model.layers[1].training
    assert not llama.lm_head.weight.requires_grad
    assert llama.model.norm.weight.requires_grad
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in llama.named_parameters())
    assert "forward" not in vars(llama.model.layers[0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.modules())


def test_bfloat16_is_close_and_summed_in_more(llama, batch, reference):
    exact = neuron_sums(llama, [batch], m=3)
    rough = neuron_attribution(llama.bfloat16(), [batch], m=3)
    assert rough.dtype == torch.float32
    assert reference.error(rough.double(), exact) < 0.2


def test_rows_that_score_nothing_give_nothing(llama, batch):
    batch["labels"][:] = -100
    assert not neuron_attribution(llama, [batch], m=2).any()
    assert neuron_attribution(llama, [], m=2).shape == (3, 16)


def test_a_batch_of_the_wrong_kind_is_one_clear_line(llama, batch):
    left = {k: v.flip(1) for k, v in batch.items()}
    with pytest.raises(UserError, match="padded on the left"):
        neuron_attribution(llama, [left], m=2)
    with pytest.raises(UserError, match="'template'"):
        neuron_attribution(llama, [batch], m=2, tokens="template")
    with pytest.raises(UserError, match="'group'"):
        neuron_attribution(llama, [batch], m=2, groups=2)
    with pytest.raises(FieldError, match="m=0"):
        neuron_attribution(llama, [batch], m=0)
    for field, value in (("batch_size", 0), ("m", 5000), ("max_memory", 0.0)):
        with pytest.raises(FieldError, match=f"{field}={value}"):
            Integrated(**{field: value})


def test_the_component_does_what_the_function_does(llama, batch):
    got = Integrated(m=2, objective="prob", path="left", batch_size=2)(llama, [batch])
    assert torch.equal(got, neuron_attribution(llama, [batch], m=2, objective="prob", path="left"))
