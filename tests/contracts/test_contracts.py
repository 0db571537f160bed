"""Every option under conf/ is found by itself and held to its slot's contract. A new option needs no line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from benchmark_rows import FIXTURES
from data_folders import EXAMPLE
from hydra import compose, initialize_config_dir

from simu import testing
from simu.config import SLOTS, RunConfig, build, build_run, conf_dir, plain
from simu.data.batching import encode_examples
from simu.data.mini import Mini
from simu.data.refusals import refusals
from simu.metrics.metric import table
from simu.training import Training, train
from simu.types import Scores, UserError

COMMON = {
    "attribution": {"m", "tokens", "batch_size"},
    "objective": {"retain_weight"},
    "optimizer": {"lr", "weight_decay"},
    "model": {"name", "dtype", "template", "target", "max_length"},
    "data": {"name", "path", "forget", "overlap"},
    "training": {"epochs", "batch_size"},
}
"""Keys that every option of a slot has, so that presets and sweeps compose with any of them."""
CONTROL = {"reads_what_it_names": "a control: constant on purpose"}
DETACHED = dict.fromkeys(
    ("has_the_gradient_of_its_value", "falls_with_a_small_step"), "a token's weight is detached, as in the source"
)
WHOLE = "a direction is of all parameters: it is not known which of them the loss reads"
FAILING = {
    ("attribution", "random"): {"reads_its_batches": "a control: it reads no row"},
    ("optimizer", "zo"): {"leaves_what_has_no_gradient": WHOLE},
    ("optimizer", "hybrid"): {"leaves_what_has_no_gradient": WHOLE},
    ("mask", "all"): CONTROL,
    ("mask", "none"): CONTROL,
    ("objective", "ceu"): {"has_the_gradient_of_its_value": "its target is detached, as in the source"},
    ("objective", "satimp"): DETACHED,
    ("objective", "wga"): DETACHED,
}
"""Checks that an option fails knowingly, and why."""
ELSEWHERE = ("hub", "smollm2_135m")
"""Models whose weights the command line, or a package, has to bring."""


def options(*slots: str) -> list[tuple[str, str]]:
    return [(slot, path.stem) for slot in slots for path in sorted((conf_dir() / slot).glob("*.yaml"))]


def composed(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build_run(compose("config", overrides=list(overrides)))


@pytest.mark.parametrize(("slot", "option"), options(*SLOTS))
def test_composes_builds_and_spells_every_field(slot, option):
    cfg = composed(f"{slot}={option}")
    component = getattr(cfg, slot)
    node = yaml.safe_load((conf_dir() / slot / f"{option}.yaml").read_text())
    defaults = [str(key) for entry in node.get("defaults", []) if isinstance(entry, dict) for key in entry]
    own = [key for key in defaults if not key.startswith("override ")]
    picked = {key.partition("@")[2].partition(".")[0] or key for key in own}  # attack@attacks.relearn → attacks
    spelt = {*node, *picked} - {"_target_", "defaults"}
    assert spelt == {f.name for f in dataclasses.fields(component)}
    assert spelt >= COMMON.get(slot, set())
    assert dataclasses.fields(component) == () or component.__dataclass_params__.frozen


@pytest.mark.parametrize(("slot", "option"), options("method", "preset"))
def test_bundles_compose(slot, option):
    if slot == "method":
        assert composed(f"method={option}").method.name == option
    else:
        words = [f"{key}={value}" for key, value in zip(("model", "data", "method"), option.split("-"), strict=False)]
        composed(*words)


@pytest.mark.parametrize("option", [o for s, o in options("model")])
def test_model_says_what_its_weights_depend_on(option):
    here = ["model.path=org/name"] if option in ELSEWHERE else []
    model = composed(f"model={option}", *here).model
    assert isinstance(model.identity("tofu"), Mapping)
    if not isinstance(model.template, str):  # a tokenizer's own: tests/models/test_chat.py
        assert model.template.render("why?").count("why?") == 1


@pytest.mark.parametrize("option", [o for s, o in options("data")])
def test_data(option):
    files = {"mini": {}, "rows": EXAMPLE}.get(option, {"path": FIXTURES / option})
    testing.check_data(composed(f"data={option}", *(f"data.{key}={value}" for key, value in files.items())).data)


@pytest.mark.parametrize("option", [o for s, o in options("mask")])
def test_mask(option):
    threshold = ["mask.t=0.4"] if hasattr(composed(f"mask={option}").mask, "t") else []
    mask = composed(f"mask={option}", *threshold).mask
    testing.check_mask(mask, expected_failed_checks=FAILING.get(("mask", option)))


@pytest.mark.parametrize("option", [o for s, o in options("attribution")])
def test_attribution(option):
    attribution = composed(f"attribution={option}", "attribution.m=2").attribution
    testing.check_attribution(attribution, expected_failed_checks=FAILING.get(("attribution", option)))


@pytest.mark.parametrize("option", [o for s, o in options("objective")])
def test_forget_loss(option):
    loss = composed(f"objective={option}").objective.forget
    testing.check_loss(loss, expected_failed_checks=FAILING.get(("objective", option)))


@pytest.mark.parametrize("option", [o for s, o in options("objective/retain")])
def test_retain_loss(option):
    testing.check_loss(composed(f"objective/retain={option}").objective.retain)


@pytest.mark.parametrize("option", [o for s, o in options("optimizer")])
def test_optimizer(option):
    gentle = {"zo": ["optimizer.lr=100"], "hybrid": ["optimizer.zeroth_lr=100"]}.get(option, [])  # for a parabola
    optimizer = composed(f"optimizer={option}", *gentle).optimizer
    testing.check_optimizer(optimizer, expected_failed_checks=FAILING.get(("optimizer", option)))


@pytest.mark.parametrize("option", [o for s, o in options("evaluator")])
def test_evaluator(option):
    words = ["evaluator.max_new_tokens=24", "evaluator.bootstrap=20"]
    if option == "lume":
        cfg = composed("data=lume", f"data.path={FIXTURES / 'lume'}", f"evaluator={option}", *words)
        testing.check_evaluator(cfg.evaluator, splits=cfg.data())
    else:
        testing.check_evaluator(composed(f"evaluator={option}", "evaluator.choice_scorer=rouge_l", *words).evaluator)


@pytest.mark.parametrize("metric", table(), ids=lambda metric: metric.key)
def test_metric(metric):
    testing.check_metric(metric)


@pytest.fixture(scope="module")
def bench():
    """A random two-layer model, its tokenizer, and a few rows of mini."""
    cfg = composed(
        "model.hidden_size=16",
        "model.intermediate_size=24",
        "model.layers=2",
        "model.heads=2",
        "model.kv_heads=1",
        "model.vocab_size=320",
    )
    splits = Mini(name="mini", authors=4, holdout_authors=1)()
    texts = [e.prompt + e.answer for e in splits.retain]

    def fresh():
        return cfg.model.load("mini", texts, 0, torch.float32)

    _, tokenizer = fresh()
    rows = {"forget": splits.forget[:6], "retain": splits.retain[:8], "instead": refusals(splits.forget[:6])}
    return fresh, {k: encode_examples(tokenizer, cfg.model.template, v) for k, v in rows.items()}, tokenizer


def scores(seed: int) -> Scores:
    return Scores(torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)), 12)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("slot", "option"),
    options("objective", "objective/retain", "optimizer", "perturbation", "selection", "mask", "training"),
)
def test_trains_two_steps_and_resumes_to_equal_bytes(slot, option, bench, tmp_path):
    """Any option of these slots, with the others at their defaults: killed after its first step and started again, it
    ends where it ends undisturbed, has moved, and is a plain model of finite weights."""
    fresh, rows, tokenizer = bench
    words = [f"{slot}={option}", "optimizer.lr=1e-3", "training.epochs=2", "training.batch_size=6"]
    cfg = composed(*words, "training.checkpoint_every=1")

    def unlearn(checkpoint: Path, kill: bool) -> dict[str, torch.Tensor]:
        model, _ = fresh()
        sides = [scores(i) if side in cfg.mask.needs else None for i, side in enumerate(("forget", "retain"))]
        mask = cfg.mask(*sides, (2, 16)) if cfg.selection.reads_mask else None
        selection = cfg.selection(model, mask, master=True)
        optimizer = cfg.optimizer(selection.named_parameters())

        def on_step(record: Mapping[str, float]) -> None:
            if kill and record["step"] == 2:
                raise Killed

        train(
            model,
            selection,
            optimizer,
            cfg.objective,
            rows["forget"],
            rows["retain"],
            alternatives=rows["instead"],
            perturbation=cfg.perturbation,
            settings=cfg.training,
            pad_id=tokenizer.pad_token_id,
            seed=0,
            on_step=on_step,
            checkpoint=checkpoint,
        )
        selection.merge()
        return dict(model.state_dict())

    undisturbed = unlearn(tmp_path / "a.pt", kill=False)
    with pytest.raises(Killed):
        unlearn(tmp_path / "b.pt", kill=True)
    resumed = unlearn(tmp_path / "b.pt", kill=False)
    before = fresh()[0].state_dict()
    assert undisturbed.keys() == before.keys() == resumed.keys()
    assert all(undisturbed[name].equal(resumed[name]) for name in before)
    assert all(torch.isfinite(tensor).all() for tensor in undisturbed.values())
    assert any(not undisturbed[name].equal(before[name]) for name in before)


@pytest.mark.parametrize("option", [o for s, o in options("robustness/attack")])
def test_attack(option):
    """In a suite of its own, with every field spelt."""
    word = f"+robustness/attack@robustness.attacks.one={option}"
    (attack,) = composed(word).robustness.attacks.values()
    spelt = yaml.safe_load((conf_dir() / "robustness" / "attack" / f"{option}.yaml").read_text()).keys() - {"_target_"}
    assert spelt == {f.name for f in dataclasses.fields(attack)}
    testing.check_attack(attack)


@pytest.mark.parametrize("option", [o for s, o in options("perturbation")])
def test_perturbation(option):
    testing.check_perturbation(composed(f"perturbation={option}").perturbation)


@pytest.mark.parametrize("option", [o for s, o in options("tracker")])
def test_tracker_takes_what_a_run_sends(option, tmp_path):
    labels = {k: k for k in ("group", "job_type", "name", "method", "data", "model", "seed")}
    run = composed(f"tracker={option}").tracker.open(tmp_path, {"seed": 0}, labels)
    run.log({"forget_loss": 1.0}, step=1)
    run.table("generations", [{"id": "a", "split": "forget", "prompt": "p", "answer": "a", "generated": "g"}])
    run.heatmap("mask", scores(0).values > 0)
    run.summary({"aggregate": 0.5})
    run.finish()


def test_training_defaults_live_in_the_yaml():
    """Where a class has defaults of its own (for use from Python), they are the yaml's."""
    differ = []
    for slot, option in options("training"):
        component = composed(f"{slot}={option}").training
        differ += [
            f.name
            for f in dataclasses.fields(Training)
            if f.default is not dataclasses.MISSING and f.default != getattr(component, f.name)
        ]
    assert differ == []


@pytest.mark.parametrize("slot", SLOTS)
def test_build_is_strict_about_every_key(slot):
    for _, option in options(slot):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            node = plain(compose("config", overrides=[f"{slot}={option}"]))[slot]
        with pytest.raises(UserError, match=f"^{slot}\\.zzz: .* has no such field"):
            build(node | {"zzz": 1}, slot)
