"""What a dry run says a run would take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from commands import simu
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from simu import costs
from simu.data.batching import Encoded
from simu.optim.perturb import SAM, NoPerturbation, Smoothing
from simu.optim.signs import BuildSignSGD
from simu.optim.zeroth import BuildHybrid, BuildZerothOrder
from simu.training import Training


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, **sizes))


def test_flops_of_a_forward_pass_are_those_that_torch_counts(model):
    """Without the products of attention, which rows of this length do not notice: counted apart by torch, too."""
    rows = [Encoded((1,) * 6, (2,) * 3), Encoded((1,) * 4, (2,) * 5)]
    counter = FlopCounterMode(display=False)
    with counter:
        for row in rows:
            hidden = model.model(torch.tensor([row.prompt + row.answer])).last_hidden_state
            model.lm_head(hidden[:, -len(row.answer) :])
    counts = counter.get_flop_counts()["Global"]
    linear = sum(n for op, n in counts.items() if "mm" in str(op) and "bmm" not in str(op))
    assert costs.Widths.of(model).forward(rows) == linear


def test_widths_by_hand(model):
    widths = costs.Widths.of(model)
    attention, mlp = 32 * 32 + 2 * 32 * 16 + 32 * 32, 3 * 32 * 80
    assert (widths.block, widths.head, widths.attention) == (3 * (attention + mlp), 50 * 32, 3 * attention)


@pytest.mark.parametrize(
    ("optimizer", "perturbation", "passes"),
    [
        (BuildSignSGD(), NoPerturbation(), 3 + 3),  # of each side forward, backward, gradients
        (BuildSignSGD(), SAM(), 2 * 3 + 3),
        (BuildSignSGD(), Smoothing(draws=5), 5 * 3 + 3),
        (BuildZerothOrder(draws=4), NoPerturbation(), 4 * (2 + 2)),  # two values a direction, without a backward
        (BuildHybrid(draws=4), NoPerturbation(), (3 + 3 + 4 * (2 + 2)) / 2),
    ],
)
def test_passes_of_an_unlearning_step(model, optimizer, perturbation, passes):
    """In forward passes of one row: six rows, two epochs."""
    rows = [Encoded((1,) * 6, (2,) * 3)] * 6
    cfg = SimpleNamespace(
        optimizer=optimizer,
        perturbation=perturbation,
        training=Training(epochs=2, batch_size=3),
        selection=SimpleNamespace(reads_mask=False),
    )
    widths = costs.Widths.of(model)
    assert costs.unlearning_flops(cfg, widths, rows, rows) == 12 * passes * widths.forward(rows[:1])


def test_the_rate_is_one_that_this_machine_reaches():
    rate = costs.matmul_rate(512, torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e15


def test_minutes_are_flops_over_the_share_of_the_rate():
    class Config:
        class model:
            learns_background = True

            class target:
                max_epochs = 7

    rate = 1e9
    flops = {
        "attribution": 90 * rate * costs.SHARE["attribution"],
        "evaluation": 3700 * rate * costs.SHARE["evaluation"],
    }
    total, attribution, evaluation = costs.lines(flops, rate, Config)
    assert "about 1:03:10 where nothing is cached, at 1 GFLOP/s" in total
    assert attribution.split() == ["attribution", "1:30"]
    assert evaluation.split()[:2] == ["evaluation", "1:01:40"]
    assert costs.passes(Config) == 7


def test_a_dry_run_names_the_stages_that_are_asked_for(tmp_path):
    rows = ["data.authors=4", "data.holdout_authors=1", "dry_run=true"]
    whole = simu(*rows, cwd=tmp_path).stdout
    assert [line.split()[0] for line in whole.split("  time ")[1].splitlines()[1:5]] == [
        "target",
        "attribution",
        "unlearning",
        "evaluation",
    ]
    words = ("method=fo_graddiff", "objective=altpo", "stages=[target,unlearning]")
    part = simu(*rows, *words, cwd=tmp_path).stdout
    named = [line.split()[0] for line in part.split("  time ")[1].splitlines()[1:]]
    assert named == ["target", "alternatives", "unlearning"]
