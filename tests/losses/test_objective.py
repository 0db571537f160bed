"""Every forget loss with every retain loss: composed as on the command line, built, and trained with."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from float64 import true_float64
from hydra import compose, initialize_config_dir
from transformers import LlamaConfig, LlamaForCausalLM

from simu.config import build, conf_dir, plain
from simu.data.batching import Encoded
from simu.losses.forget.ascent import Ascent
from simu.losses.forget.npo import NPO
from simu.losses.objective import Objective, teach
from simu.losses.retain.ce import CE
from simu.losses.retain.kl import KL
from simu.losses.retain.none import NoRetain
from simu.training import Training, train
from simu.types import FieldError, UserError

OPTIONS = sorted(p.stem for p in (conf_dir() / "objective").glob("*.yaml"))
RETAINS = sorted(p.stem for p in (conf_dir() / "objective" / "retain").glob("*.yaml"))
DEFAULTS = {"ga": ("none", 0.0), "kl": ("kl", 1.0), "rmu": ("hidden", 1.0), "simnpo": ("ce", 8.0)}
DEFAULTS |= {"ceu": ("none", 0.0), "pdu": ("ce", 100.0)}
DEFAULTS |= {"satimp": ("ce", 10.0), "undial": ("ce", 0.0)}
"""Retain loss and λ of an option where they are not ce and 1."""


def objective(*overrides: str) -> Objective:
    """The component of a command line, without any preset's values."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=["data=mini", "method=original", *overrides])
    return build(plain(config)["objective"], "objective")


def rows(n: int, seed: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 7, (n, 2), generator=generator).tolist()
    return [Encoded(*(tuple(torch.randint(1, 61, (k,), generator=generator).tolist()) for k in two)) for two in lengths]


def fresh() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=61, num_key_value_heads=2, **sizes))


def trained(chosen: Objective, retain: list[Encoded]) -> tuple[dict[str, torch.Tensor], list[dict]]:
    model = fresh()
    settings = Training(epochs=1, batch_size=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = train(
        model, model, optimizer, chosen, rows(4, 1), retain, alternatives=rows(4, 2), settings=settings, pad_id=0
    )
    return dict(model.state_dict()), result.records


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_has_its_published_retain_loss_and_weight(option):
    retain, weight = DEFAULTS.get(option, ("ce", 1.0))
    chosen = objective(f"objective={option}")
    assert chosen.retain == objective(f"objective/retain={retain}").retain
    assert (chosen.forget_weight, chosen.retain_weight) == (1.0, weight)


@pytest.mark.parametrize(("option", "retain"), itertools.product(OPTIONS, RETAINS))
def test_every_pair_composes_and_trains(option, retain):
    chosen = objective(f"objective={option}", f"objective/retain={retain}", "objective.retain_weight=2")
    assert (chosen.forget, chosen.retain_weight) == (objective(f"objective={option}").forget, 2.0)
    assert type(chosen.retain) is type(objective(f"objective/retain={retain}").retain)
    weights, records = trained(chosen, rows(5, 3))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert any(not tensor.equal(weights[name]) for name, tensor in fresh().state_dict().items())
    assert all((r["retain_loss"] is None) == (retain == "none") for r in records)
    assert all(math.isfinite(r["forget_loss"]) for r in records)


def test_the_command_line_of_the_documentation():
    words = ("objective=npo", "objective/retain=kl", "objective.retain_weight=2", "objective.forget.beta=0.5")
    assert objective(*words) == Objective(forget=NPO(beta=0.5), retain=KL(), retain_weight=2.0)
    assert objective("objective=graddiff", "objective.forget_weight=0.5") == Objective(
        forget=Ascent(), retain=CE(), forget_weight=0.5, retain_weight=1.0
    )


@pytest.mark.parametrize(
    ("words", "layer"),
    [
        (("objective=rmu",), None),
        (("objective=rmu", "objective.forget.layer=1"), 1),
        (("objective=rmu", "objective.forget.layer=1", "objective.retain.layer=0"), 0),
        (("objective=npo", "objective/retain=hidden"), None),
    ],
)
def test_the_hidden_retain_loss_follows_the_layer_of_the_forget_loss(words, layer):
    assert objective(*words).retain.layer == layer


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("objective.forget.beta=0", r"^objective\.forget\.beta="),
        ("objective.retain_weight=-1", r"^objective\.retain_weight=-1"),
        ("objective.forget_weight=-1", r"^objective\.forget_weight=-1"),
        ("+objective.retain.beta=1", r"^objective\.retain\.beta: CE has no such field"),
    ],
)
def test_mistakes_are_named_by_their_key(word, message):
    with pytest.raises(UserError, match=message) as caught:
        objective("objective=npo", word)
    assert "\n" not in str(caught.value)


def test_weights_from_python_are_checked_too():
    with pytest.raises(FieldError, match="retain_weight=-1"):
        Objective(forget=Ascent(), retain=CE(), retain_weight=-1.0)


def gradient(forget_weight: float, retain_weight: float) -> torch.Tensor:
    """By one SGD step at rate 1 from the same weights, unclipped: θ₀ − θ."""
    model = true_float64(fresh())
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    chosen = Objective(forget=NPO(), retain=CE(), forget_weight=forget_weight, retain_weight=retain_weight)
    settings = Training(epochs=1, batch_size=4, warmup=0.0, clip_norm=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    train(model, model, optimizer, chosen, rows(4, 1), rows(4, 3), settings=settings, pad_id=0)
    return start - torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_step_is_linear_in_both_weights():
    forget, retain = gradient(1.0, 0.0), gradient(0.0, 1.0)
    assert forget.abs().max() > 1e-3
    assert retain.abs().max() > 1e-3
    torch.testing.assert_close(gradient(0.5, 3.0), 0.5 * forget + 3.0 * retain, rtol=0, atol=1e-14)
    assert not gradient(0.0, 0.0).any()


class Unreadable(list):
    """Rows that nobody may look at."""

    def __iter__(self):
        raise AssertionError("the retain rows were read")


def test_without_a_retain_loss_the_retain_rows_are_not_read():
    chosen = Objective(forget=Ascent(), retain=NoRetain(), retain_weight=0.0)
    without, _ = trained(chosen, [])
    beside, records = trained(chosen, Unreadable(rows(5, 3)))
    assert all(tensor.equal(beside[name]) for name, tensor in without.items())
    assert {r["retain_loss"] for r in records} == {None}


def test_teaching_descends_on_what_ascent_climbs():
    assert dataclasses.replace(teach(), forget=Ascent()) == Objective(
        forget=Ascent(), retain=NoRetain(), retain_weight=0.0
    )
    _, taught = trained(teach(), [])
    _, forgotten = trained(Objective(forget=Ascent(), retain=NoRetain(), retain_weight=0.0), [])
    assert taught[0]["forget_loss"] == -forgotten[0]["forget_loss"] > 0
