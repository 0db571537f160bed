"""Masks against sets worked out by hand."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from simu.masks.constant import Everything, Nothing
from simu.masks.contrastive import Contrastive, contrast
from simu.masks.critical import Dual, ForgetOnly, critical_neurons
from simu.masks.random import Random
from simu.masks.report import mask_report
from simu.masks.soft import Soft
from simu.masks.top import Top
from simu.types import FieldError, Scores, UserError

SHAPE = (2, 4)
FORGET = torch.tensor([[4.0, 2.0, 1.0, -8.0], [1.0, 0.5, 0.6, 0.0]])
RETAIN = torch.tensor([[0.1, 2.0, 0.2, 1.5], [5.0, 0.0, 1.0, 4.0]])
SUM_F, SUM_R = Scores(FORGET, 2), Scores(RETAIN, 10)


def rows(mask: torch.Tensor) -> list[list[int]]:
    return [layer.nonzero().flatten().tolist() for layer in mask]


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0.0, [[0, 1, 2], [0, 1, 2]]),  # strictly positive scores
        (0.25, [[0, 1], [0, 1, 2]]),  # 1.0 is not > 0.25 · 4.0
        (0.5, [[0], [0, 2]]),  # 2.0 is not > 0.5 · 4.0, 0.5 is not > 0.5 · 1.0
        (0.99, [[0], [0]]),
        (1.0, [[], []]),
    ],
)
def test_critical_is_strictly_above_t_times_the_layers_maximum(t, expected):
    mask = critical_neurons(FORGET, t)
    assert mask.dtype == torch.bool
    assert rows(mask) == expected


def test_a_layer_without_positive_score_has_none_and_says_so(caplog):
    scores = torch.tensor([[1.0, 0.5], [-1.0, -0.2], [0.0, 0.0]])
    with caplog.at_level(logging.WARNING):
        assert rows(critical_neurons(scores, 0.1)) == [[0, 1], [], []]
    assert len(caplog.records) == 1
    assert "layer(s) 1, 2" in caplog.text


def test_no_warning_where_every_layer_has_a_positive_score(caplog):
    critical_neurons(FORGET, 1.0)
    assert not caplog.records


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(UserError, match="not finite"):
        critical_neurons(torch.tensor([[1.0, bad]]), 0.1)


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("mask", [Dual, ForgetOnly, Contrastive, Soft, Random, Everything, Nothing])
def test_t_out_of_range_is_refused(mask, t):
    with pytest.raises(FieldError, match=r"^t=.*0 ≤ x ≤ 1"):
        mask(t=t)
    with pytest.raises(UserError, match="0 ≤ t ≤ 1"):
        critical_neurons(FORGET, t)


def test_dual_and_forget_only():
    # t = 0.3: F = > 1.2 and > 0.3; R = > 0.6 and > 1.5
    assert rows(Dual(t=0.3)(SUM_F, None, SHAPE)) == [[0, 1], [0, 1, 2]]
    assert rows(ForgetOnly(t=0.3)(SUM_F, SUM_R, SHAPE)) == [[0], [1, 2]]


def test_contrastive_is_on_means_over_samples():
    # two forget samples, ten retain samples: layer 0 differences 1.99, 0.8, 0.48, -4.15; layer 1: 0, 0.25, 0.2, -0.4
    assert rows(Contrastive(t=0.3)(SUM_F, SUM_R, SHAPE)) == [[0, 1], [1, 2]]
    # one sample each: layer 0 differences 3.9, 0, 0.8, -9.5; layer 1: -4, 0.5, -0.4, -4
    assert rows(Contrastive(t=0.3)(Scores(FORGET, 1), Scores(RETAIN, 1), SHAPE)) == [[0], [1]]
    with pytest.raises(UserError, match="at least one"):
        Contrastive(t=0.3)(Scores(FORGET, 0), Scores(RETAIN, 1), SHAPE)


def test_contrastive_divides_by_samples_where_there_are_as_many_rows():
    """Two rows each, of 2 + 3 answer tokens with EOS to forget and 9 + 11 to keep: |D_F| = 5, |D_R| = 20. A neuron that
    gives each sample 1 must come out at 0; by rows it would come out at (5 − 20) / 2, and another would be largest."""
    forget = Scores(torch.tensor([[1.0 * 5, 3.0 * 5, 2.0 * 5]]), 5)
    retain = Scores(torch.tensor([[1.0 * 20, 0.5 * 20, 0.0 * 20]]), 20)
    assert contrast(forget, retain).tolist() == [[0.0, 2.5, 2.0]]
    assert rows(Contrastive(t=0.7)(forget, retain, (1, 3))) == [[1, 2]]  # by rows: (-7.5, 2.5, 5.0), so neuron 2 alone


@pytest.mark.parametrize("mask", [Dual, ForgetOnly, Contrastive, Soft, Random])
def test_scores_of_another_model_are_refused_and_none_is_changed(mask):
    forget, retain = Scores(FORGET.clone(), 2), Scores(RETAIN.clone(), 10)
    mask(t=0.3)(forget, retain, SHAPE)
    assert torch.equal(forget.values, FORGET)
    assert torch.equal(retain.values, RETAIN)
    with pytest.raises(UserError, match=r"forget scores of shape \(2, 4\); allowed is \(3, 4\)"):
        mask(t=0.3)(forget, retain, (3, 4))


def test_soft_puts_forget_only_neurons_first():
    weights = Soft(t=0.3)(SUM_F, SUM_R, SHAPE)
    # layer 0, neuron 1 is in both: f = 2/4, r = 2/2; layer 1, neuron 0 is in both: f = 1, r = 1
    expected = torch.tensor([[1.0, 0.5 / 1.5, 0.0, 0.0], [0.5, 1.0, 1.0, 0.0]])
    torch.testing.assert_close(weights, expected)
    assert weights.dtype == torch.float32


def test_random_matches_the_counts_of_f_and_follows_its_seed():
    torch.manual_seed(0)
    scores = torch.randn(6, 50)
    expected = (scores > 0.2 * scores.amax(dim=1, keepdim=True)).sum(dim=1)
    first, again, other = (Random(t=0.2, seed=s)(Scores(scores, 1), None, (6, 50)) for s in (1, 1, 2))
    assert torch.equal(first.sum(dim=1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(other.sum(dim=1), expected)
    assert not torch.equal(first, critical_neurons(scores, 0.2))


def test_random_draws_uniformly():
    scores = torch.zeros(1, 10)
    scores[0, :3] = 1.0
    drawn = sum(Random(t=0.5, seed=s)(Scores(scores, 1), None, (1, 10)).float() for s in range(600))
    assert ((drawn / 600 - 0.3).abs() < 0.08).all()  # four standard errors of a share of 0.3


def test_all_and_none_read_no_scores():
    assert Everything()(None, None, SHAPE).all()
    assert Everything()(None, None, SHAPE).shape == SHAPE
    assert not Nothing()(None, None, SHAPE).any()
    assert Everything.needs == Nothing.needs == frozenset()


@pytest.mark.parametrize(
    "mask", [*(kind(t=0.3) for kind in (Dual, ForgetOnly, Contrastive, Soft, Random)), Top(count=2)], ids=repr
)
def test_missing_scores_are_named(mask):
    with pytest.raises(UserError, match="forget"):
        mask(None, SUM_R, SHAPE)
    if "retain" in mask.needs:
        with pytest.raises(UserError, match="retain"):
            mask(SUM_F, None, SHAPE)
    else:
        mask(SUM_F, None, SHAPE)


def test_report_by_hand_and_json():
    a = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    b = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 0.25, 0.0, 0.0]])
    none = torch.zeros(2, 4, dtype=torch.bool)
    samples = {"forget": 5, "retain": 20}
    report = json.loads(json.dumps(mask_report({"a": a, "b": b, "none": none, "empty": none}, samples=samples)))
    assert report["samples"] == samples
    assert mask_report({})["samples"] == {}
    assert report["masks"]["a"] == {"selected": 3, "total": 8, "fraction": 0.375, "weight": 3.0, "per_layer": [2, 1]}
    assert report["masks"]["b"]["weight"] == 1.75
    assert report["pairs"]["a & b"] == {"overlap": 1, "jaccard": 0.2, "per_layer": [1, 0]}
    assert report["pairs"]["a & none"]["jaccard"] == 0.0
    assert report["pairs"]["none & empty"]["jaccard"] == 1.0


def test_report_spearman():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    swapped = torch.tensor([[1.0, 3.0, 2.0, 4.0], [40.0, 30.0, 20.0, 10.0]])
    report = mask_report({}, {"x": x, "cubed": x**3, "swapped": swapped, "flat": torch.ones(2, 4)})["spearman"]
    assert report["x & cubed"] == {"all": pytest.approx(1.0), "mean_of_layers": pytest.approx(1.0)}
    # 1 - 6 Σd² / (n³ - n): layer 0 has Σd² = 2 → 0.8, layer 1 is reversed → -1; together Σd² = 2 + 20, n = 8
    assert report["x & swapped"]["mean_of_layers"] == pytest.approx(-0.1)
    assert report["x & swapped"]["all"] == pytest.approx(1 - 6 * 22 / (8**3 - 8))
    assert report["x & flat"] == {"all": None, "mean_of_layers": None}


def test_report_refuses_masks_of_different_models():
    with pytest.raises(UserError, match="shapes"):
        mask_report({"a": torch.ones(2, 3), "b": torch.ones(2, 4)})


TIED = torch.tensor([[5.0, 1.0, 3.0, 3.0], [3.0, 3.0, -2.0, 0.0], [3.0, 7.0, -0.0, -1.0]])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [[], [], []]),
        (1, [[], [], [1]]),
        (2, [[0], [], [1]]),
        (4, [[0, 2, 3], [], [1]]),  # five units at 3: the first layer's before the others'
        (5, [[0, 2, 3], [0], [1]]),
        (7, [[0, 2, 3], [0, 1], [0, 1]]),
        (8, [[0, 1, 2, 3], [0, 1], [0, 1]]),
        (9, [[0, 1, 2, 3], [0, 1, 3], [0, 1]]),  # 0 and -0 are equal
        (12, [[0, 1, 2, 3]] * 3),
    ],
)
def test_top_of_all_layers(count, expected):
    mask = Top(count=count)(Scores(TIED, 1), None, (3, 4))
    assert mask.dtype == torch.bool
    assert rows(mask) == expected


def test_top_of_each_layer():
    assert rows(Top(count=1, within="layer")(Scores(TIED, 1), None, (3, 4))) == [[0], [0], [1]]
    assert rows(Top(count=2, within="layer")(Scores(TIED, 1), None, (3, 4))) == [[0, 2], [0, 1], [0, 1]]
    assert rows(Top(share=0.75, within="layer")(Scores(TIED, 1), None, (3, 4))) == [[0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize(
    ("share", "units", "expected"),
    [(0.0, 100, 0), (1.0, 100, 100), (0.1, 512, 51), (0.125, 20, 3), (0.145, 100, 15), (0.5, 3, 2), (1e-9, 100, 0)],
)
def test_top_rounds_a_share_half_up(share, units, expected):
    """0.125 of 20 is 2.5; 0.145 of 100 is 14.5, which a product of floats puts at 14.499999999999998."""
    scores = torch.randn(2, units, generator=torch.Generator().manual_seed(0))
    each = Top(share=share, within="layer")(Scores(scores, 1), None, (2, units))
    assert each.sum(dim=1).tolist() == [expected, expected]
    assert int(Top(share=share)(Scores(scores[:1], 1), None, (1, units)).sum()) == expected


def test_top_takes_the_largest_whatever_their_sign():
    scores = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)) - 3
    mask = Top(count=60)(Scores(scores, 1), None, (5, 40))
    assert int(mask.sum()) == 60
    assert float(scores[mask].min()) > float(scores[~mask].max())


def test_top_has_exactly_one_of_share_and_count():
    for both in ({}, {"share": 0.1, "count": 5}):
        with pytest.raises(FieldError, match=r"^count=\w+: allowed is one of share and count, the other null"):
            Top(**both)
    with pytest.raises(FieldError, match=r"^share=1\.5: allowed is"):
        Top(share=1.5)


def test_top_has_no_more_units_than_there_are():
    with pytest.raises(UserError, match=r"^count=13: allowed is 0 ≤ count ≤ 12"):
        Top(count=13)(Scores(TIED, 1), None, (3, 4))
    with pytest.raises(UserError, match=r"^count=5: allowed is 0 ≤ count ≤ 4"):
        Top(count=5, within="layer")(Scores(TIED, 1), None, (3, 4))
    with pytest.raises(UserError, match="not finite"):
        Top(count=1)(Scores(TIED / 0, 1), None, (3, 4))
