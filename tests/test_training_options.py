"""Any objective with any optimizer and any selection: trains what is selected, nothing else, and can be resumed."""

from __future__ import annotations

import copy
import functools
import itertools
import math

import pytest
import torch
from float64 import true_float64
from hydra import compose, initialize_config_dir
from small import rows
from transformers import LlamaConfig, LlamaForCausalLM

from simu.config import build, conf_dir, plain
from simu.fields import knobs
from simu.training import Training, train

OBJECTIVES, OPTIMIZERS = (
    sorted(p.stem for p in (conf_dir() / slot).glob("*.yaml")) for slot in ("objective", "optimizer")
)
MASKS = {
    "none": torch.zeros(3, 16, dtype=torch.bool),
    "some": torch.arange(48).view(3, 16) % 5 == 0,
    "soft": (torch.arange(48).view(3, 16) % 4) / 3,
    "all": torch.ones(3, 16, dtype=torch.bool),
}


@functools.cache
def option(slot: str, name: str, *words: str):
    """The component of `slot=name` with overrides, without any preset's values."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=["method=original", f"{slot}={name}", *words])
    return build(plain(config)[slot], slot)


def options_of(objective: str, optimizer: str, selection: str, lr: float = 1e-3) -> tuple:
    rated = option("optimizer", optimizer, f"optimizer.lr={lr}")
    return option("objective", objective), rated, option("selection", selection)


FORGET, RETAIN, REFUSALS = rows(8, 1), rows(12, 2), rows(8, 3)


def fresh(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
    )
    return LlamaForCausalLM(config).to(dtype)


class Killed(Exception):
    pass


def unlearn(objective, optimizer, selection, mask, *, dtype=torch.float32, checkpoint=None, die_at=0):
    model = fresh(dtype)
    chosen = selection(model, mask, master=True)
    built = optimizer(chosen.named_parameters())

    def on_step(record):
        if record["step"] == die_at:
            raise Killed

    settings = Training(epochs=1, batch_size=2, micro_batch_tokens=1, checkpoint_every=2, warmup=0.0)
    result = train(
        model,
        chosen,
        built,
        objective,
        FORGET,
        RETAIN,
        settings=settings,
        checkpoint=checkpoint,
        on_step=on_step,
        alternatives=REFUSALS,
        pad_id=0,
    )
    chosen.merge()
    return model, result


TABLE = (
    [(o, p, "selected", "some") for o in OBJECTIVES for p in ("adamw", "sophia")]
    + [("graddiff", p, "selected", "some") for p in OPTIMIZERS if p not in ("adamw", "sophia")]
    + [("npo", "sophia", "selected", m) for m in ("none", "soft", "all")]
    + [(o, "sophia", s, "some") for o in ("graddiff", "kl") for s in ("all", "lora")]
)


@pytest.mark.parametrize(("objective", "optimizer", "selection", "mask"), TABLE, ids=str)
def test_every_option_trains_what_is_selected_and_resumes(objective, optimizer, selection, mask, tmp_path):
    options = (
        option("objective", objective),
        option("optimizer", optimizer, f"optimizer.lr={1e3 if optimizer == 'zo' else 1e-3}"),
        option("selection", selection),
    )
    model, result = unlearn(*options, MASKS[mask])
    assert result.steps == 4
    assert all(math.isfinite(r["forget_loss"]) and math.isfinite(r["grad_norm"]) for r in result.records)
    assert all(r["grad_norm"] > 0 for r in result.records)
    clipped = [r["clipped_fraction"] for r in result.records]
    sophia = optimizer.startswith("sophia")
    assert all(0 <= c <= 1 for c in clipped) if sophia else all(c is None for c in clipped)

    before, after = fresh().state_dict(), model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    if selection != "all":
        for name in changed:
            assert "self_attn" in name or "mlp.down_proj" in name
        for layer in range(3):
            name = f"model.layers.{layer}.mlp.down_proj.weight"
            kept = MASKS[mask][layer] == 0
            assert torch.equal(before[name][kept], after[name][kept])
            if objective != "rmu" and selection == "selected":  # RMU reaches the lower layers alone
                assert (before[name] != after[name]).any(1).tolist() == (~kept).tolist()

    path = tmp_path / "training.pt"
    with pytest.raises(Killed):
        unlearn(*options, MASKS[mask], checkpoint=path, die_at=3)
    resumed, again = unlearn(*options, MASKS[mask], checkpoint=path)
    assert all(torch.equal(after[name], value) for name, value in resumed.state_dict().items())
    drop = {"tokens_per_s"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in again.records] == [
        {k: v for k, v in r.items() if k not in drop} for r in result.records
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "sophia"])
def test_bf16_weights_with_float32_masters_resume_to_the_same_bytes(optimizer, tmp_path):
    """A step far below bf16's resolution must not be lost over a restart."""
    options = options_of("graddiff", optimizer, "selected", lr=3e-5)
    whole, _ = unlearn(*options, MASKS["some"], dtype=torch.bfloat16)
    path = tmp_path / "training.pt"
    with pytest.raises(Killed):
        unlearn(*options, MASKS["some"], dtype=torch.bfloat16, checkpoint=path, die_at=4)
    state = torch.load(path, weights_only=True)
    assert {t.dtype for t in state["selection"].values()} == {torch.float32}
    resumed, _ = unlearn(*options, MASKS["some"], dtype=torch.bfloat16, checkpoint=path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_reference_values_are_read_from_the_file_after_a_restart(tmp_path, monkeypatch):
    """Computed once: the second life must not ask the (by then trained) model."""
    options = (
        option("objective", "npo"),
        option("optimizer", "sophia", "optimizer.lr=1e-3"),
        option("selection", "selected"),
    )
    with pytest.raises(Killed):
        unlearn(*options, MASKS["some"], checkpoint=tmp_path / "training.pt", die_at=3)
    assert (tmp_path / "training.forget-reference.pt").exists()
    monkeypatch.setattr(type(options[0].forget), "remember", None)
    unlearn(*options, MASKS["some"], checkpoint=tmp_path / "training.pt")


def trained(settings: Training, objective: str, model, **others) -> tuple[dict, list[dict]]:
    """Trained tensors, and the records but for the clock's."""
    chosen = option("selection", "selected")(model, MASKS["some"])
    optimizer = option("optimizer", "adamw", "optimizer.lr=1e-3")(chosen.named_parameters())
    parts = (model, chosen, optimizer, option("objective", objective), FORGET, RETAIN)
    result = train(*parts, alternatives=REFUSALS, settings=settings, pad_id=0, **others)
    assert not model.is_activation_checkpointing
    return dict(chosen.state_dict()), [{k: v for k, v in r.items() if k != "tokens_per_s"} for r in result.records]


CHANGED = {"checkpoint_every": 3, "activation_checkpointing": True}


def test_the_knobs_are_those_that_are_tested():
    assert knobs(Training) == CHANGED.keys()


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("objective", ["graddiff", "rmu", "kl", "dpo"])
def test_a_knob_changes_no_byte_and_a_checkpoint_survives_its_change(objective, name, tmp_path, caplog):
    """float32 with dropout: a recomputed block must draw the same. Killed under one value, taken up under the other."""
    common = {"epochs": 2, "batch_size": 4, "micro_batch_tokens": 20, "checkpoint_every": 1}
    one, other = Training(**common), Training(**common | {name: CHANGED[name]})
    weights, records = trained(one, objective, fresh(dropout=0.2))
    again, told = trained(other, objective, fresh(dropout=0.2))
    assert told == records
    assert all(torch.equal(weights[n], tensor) for n, tensor in again.items())

    def die(record):
        if record["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        trained(one, objective, fresh(dropout=0.2), checkpoint=tmp_path / "c.pt", on_step=die)
    resumed, _ = trained(other, objective, fresh(dropout=0.2), checkpoint=tmp_path / "c.pt")
    assert "starting anew" not in caplog.text
    assert all(torch.equal(weights[n], tensor) for n, tensor in resumed.items())


def test_micro_batches_change_the_rounding_and_so_are_no_knob():
    ends = [
        trained(Training(epochs=2, batch_size=4, micro_batch_tokens=n), "graddiff", make())[0]
        for make in (fresh, lambda: true_float64(fresh()))
        for n in (None, 1)
    ]
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for name, tensor in ends[2].items():
        torch.testing.assert_close(ends[3][name], tensor, rtol=0, atol=1e-11)


def test_a_forget_loss_that_reads_alternatives_asks_for_them():
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="alternative"):
        train(
            model,
            model,
            optimizer,
            option("objective", "dpo"),
            FORGET,
            RETAIN,
            pad_id=0,
            settings=Training(epochs=1, batch_size=2),
        )


def test_sophia_g_is_given_labels_of_its_own_and_the_step_is_as_without():
    """hessian_interval=2 over 4 steps: H moves at steps 1 and 3 only; the sampled pass leaves no gradient behind."""
    model = fresh()
    chosen = option("selection", "selected")(model, MASKS["some"])
    official = option("optimizer", "sophia_g", "optimizer.lr=1e-3", "optimizer.hessian_interval=2")
    optimizer = official(chosen.named_parameters())
    seen = []

    def on_step(record):
        seen.append([copy.deepcopy(optimizer.state[p]["hessian"]) for p in chosen.parameters()])

    train(
        model,
        chosen,
        optimizer,
        option("objective", "graddiff"),
        FORGET,
        RETAIN,
        pad_id=0,
        on_step=on_step,
        settings=Training(epochs=1, batch_size=2),
    )
    equal = [all(torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in itertools.pairwise(seen)]
    assert equal == [True, False, True]
    assert all(h.min() >= 0 and h.max() > 0 for h in seen[0])
