"""Planted targets: what is taught to which units, by hand; and what is measured of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import SMALL as RUN
from commands import run_folder, simu
from safetensors.torch import load_file
from small import SMALL, rows
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from simu.data.batching import Encoded, collate
from simu.localisation import moved, norms
from simu.metrics.localisation import auc, of_change, of_mask, of_scores
from simu.models.anatomy import anatomy
from simu.models.load import FineTune
from simu.stages import planting
from simu.stages.planting import Units, draw_units, plant
from simu.types import UserError

RECIPE = FineTune(
    lr=1e-2,
    batch_size=4,
    max_epochs=1,
    memorised=0.99,
    check_every=50,
    weight_decay=0.0,
    plant=0.25,
    plant_epochs=3,
)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, "vocab_size": 97}))


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    drops = {f"{name}_pdrop": 0.0 for name in ("resid", "embd", "attn")}
    sizes = {"vocab_size": 97, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, **drops))


def some_rows() -> dict[str, list[Encoded]]:
    every = rows(14, seed=1)
    return {"forget": every[:4], "decoy": every[4:8], "replayed": every[8:]}


def planted(model: nn.Module, units: Units, recipe: FineTune, file: Path, every: int = 0) -> Any:
    held = SimpleNamespace(pad_token_id=0, eos_token_id=2)
    return plant(
        model, held, some_rows(), units, recipe, pad_id=0, seed=5, master=True, checkpoint=file, checkpoint_every=every
    )


@pytest.mark.parametrize(("make", "unit"), [(llama, "row"), (llama, "hidden"), (gpt2, "row"), (gpt2, "hidden")])
def test_a_step_gives_each_unit_the_gradient_of_its_own_rows(
    make: Callable[[], Any], unit: Any, tmp_path: Path
) -> None:
    """One AdamW step by hand, in a dense model: forget units move by forget and replayed rows, decoys by theirs."""
    model, dense = make(), make()
    units = draw_units(anatomy(model).shape(unit), 0.25, seed=3)
    recipe = replace(RECIPE, plant_epochs=1, plant_unit=unit)
    planted(model, units, recipe, tmp_path / "c.pt")

    dense.train()
    gradients = {}
    for name, some in some_rows().items():
        chosen = planting._plan({k: len(v) for k, v in some_rows().items()}, recipe, 5)[0][name]
        batch = collate([some[i] for i in chosen], 0)
        logits = dense(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
        weights = [m.weight for m in anatomy(dense).down_projections]
        gradients[name] = torch.autograd.grad(loss, weights)
    for layer, (moved_module, module) in enumerate(
        zip(anatomy(model).down_projections, anatomy(dense).down_projections, strict=True)
    ):
        transposed = (unit == "hidden") != (make is gpt2)
        view = lambda w: w.t() if transposed else w  # noqa: B023, E731
        expected = view(module.weight).detach().clone()
        for side in ("forget", "decoy"):
            own = getattr(units, side)[layer]
            g = view(gradients[side][layer] + gradients["replayed"][layer])[own]
            expected[own] -= 1e-2 / planting.WARMUP * g / (g.abs() + 1e-8)  # AdamW's first step, bias-corrected
        torch.testing.assert_close(view(moved_module.weight).detach(), expected, rtol=1e-4, atol=1e-6)


def test_nothing_but_the_units_changes_and_the_model_is_plain_again(tmp_path: Path) -> None:
    model = llama()
    before = copy.deepcopy(model.state_dict())
    units = draw_units((3, 16), 0.25, seed=0)
    done = planted(model, units, RECIPE, tmp_path / "c.pt")
    assert done.steps == 3
    assert set(done.memorised) == {"forget", "decoy", "replayed"}
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(p.requires_grad for p in model.parameters())
    for name, tensor in before.items():
        if not name.endswith("down_proj.weight"):
            assert torch.equal(after[name], tensor), name
    for layer in range(3):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        changed = (after[name] != before[name]).any(dim=1)
        assert torch.equal(changed, units.forget[layer] | units.decoy[layer])


def test_it_ends_when_all_three_are_memorised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked = iter([0.2, 0.2, 0.9, 1.0, 0.98, 1.0, 1.0, 0.99, 1.0])
    monkeypatch.setattr(planting, "_memorised", lambda *_: next(looked))
    eager = replace(RECIPE, check_every=2, plant_epochs=50)
    done = planted(llama(), draw_units((3, 16), 0.25, seed=0), eager, tmp_path / "c.pt")
    assert done.steps == 6, "the third look, each after two passes of one step"
    assert done.memorised == {"forget": 1.0, "decoy": 0.99, "replayed": 1.0}
    assert "asked for were" not in caplog.text


def test_killed_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = draw_units((3, 16), 0.25, seed=0)
    whole, killed = llama(), llama()
    planted(whole, units, RECIPE, tmp_path / "whole.pt", every=1)
    step = planting._step

    def dies(*arguments: Any) -> Any:
        if (tmp_path / "killed.pt").exists():
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(planting, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        planted(killed, units, RECIPE, tmp_path / "killed.pt", every=1)
    monkeypatch.setattr(planting, "_step", step)
    resumed = llama()
    planted(resumed, units, RECIPE, tmp_path / "killed.pt", every=1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_as_many_units_in_every_layer_and_none_in_both() -> None:
    units = draw_units((5, 40), 0.2, seed=1)
    assert units.forget.sum(1).tolist() == units.decoy.sum(1).tolist() == [8] * 5
    assert not bool((units.forget & units.decoy).any())
    assert not torch.equal(units.forget, draw_units((5, 40), 0.2, seed=2).forget)
    assert torch.equal(units.forget, draw_units((5, 40), 0.2, seed=1).forget)
    assert not torch.equal(units.forget[0], units.forget[1])
    with pytest.raises(UserError, match="is 0 of a layer's 40 units"):
        draw_units((5, 40), 0.01, seed=0)


F = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
D = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)


def test_auc_is_the_share_of_pairs_in_order() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0], [9.0, -1.0, -2.0, -3.0]])
    assert auc(scores, F, D) == pytest.approx((1 + 1 + 0 + 0.5) / 4)  # 3>2, 3>1; 1<2, 1=1
    found = of_scores(scores, F, D)
    assert found["localisation/auc_all"] == pytest.approx((5 + 3.5) / 12)  # 3 beats all but 9; 1 ties once, beats 3
    assert found["localisation/precision_at_count"] == 0.5  # the two highest: 9 (not planted) and 3


def test_precision_and_recall_of_a_mask() -> None:
    mask = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    assert of_mask(mask, F) == {"localisation/recall": 0.5, "localisation/precision": pytest.approx(1 / 3)}
    assert of_mask(torch.zeros_like(F), F) == {"localisation/recall": 0.0}


def test_a_change_is_of_the_units_and_what_fell_outside() -> None:
    change = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0] * 4])
    found = of_change(change, 9.0 + 1.0 + 4.0 + 6.0, F, D)
    assert found == {"change/auc": 0.75, "change/precision": 0.5, "change/outside": pytest.approx(0.5)}


@pytest.mark.parametrize("unit", ["row", "hidden"])
def test_norms_and_moves_are_those_of_rows_and_columns(unit: Any) -> None:
    before, after = gpt2(), gpt2()
    with torch.no_grad():
        after.transformer.h[1].mlp.c_proj.weight[2, 5] += 2.0  # Conv1D: [F, D]
        after.transformer.wte.weight[0, 0] += 1.0
    change, total = moved(before, after, unit)
    expected = torch.zeros(2, 16 if unit == "row" else 24)
    expected[1, 5 if unit == "row" else 2] = 2.0
    torch.testing.assert_close(change, expected.double(), atol=1e-6, rtol=0)
    assert total == pytest.approx(5.0, abs=1e-5)
    weight = before.transformer.h[0].mlp.c_proj.weight.detach().double()
    assert norms(before, unit)[0, 3] == pytest.approx(float((weight[:, 3] if unit == "row" else weight[3]).norm()))


TOFU = ["data=tofu", f"data.path={Path(__file__).parent / 'fixtures' / 'tofu'}", "data.forget=10"]
PLANT = ["model.target.plant=0.25", "model.target.plant_epochs=4", "tracker=none"]


def test_a_run_says_how_well_the_units_were_found(tmp_path: Path) -> None:
    told = simu(*RUN, *PLANT, "mask=planted", "method=simu", cwd=tmp_path).stdout
    folder = run_folder(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["localisation/precision"] == metrics["localisation/recall"] == 1.0
    assert 0 < metrics["change/outside"] < 1  # attention trains, too
    assert metrics["change/auc"] == 1.0  # a decoy unit is not selected, so it does not move
    assert metrics["original/forget/n"] > 0
    assert "localisation/precision 1.000" in told
    (file,) = (tmp_path / "cache" / "target").glob("*/planted.safetensors")
    assert torch.equal(load_file(file)["forget"], load_file(folder / "mask.safetensors")["mask"])
    assert "attribution" not in json.loads((folder / "provenance.json").read_text())["stages"]
    dry = simu(*RUN, *PLANT, "mask=planted", "dry_run=true", cwd=tmp_path).stdout
    assert "attribution plan" not in dry


def test_a_planted_run_may_stop_at_its_mask(tmp_path: Path) -> None:
    stop = ["attribution=random", "mask=top", "mask.share=0.25", "stages=[target,attribution,mask]"]
    told = simu(*RUN, *PLANT, *stop, "method=simu", cwd=tmp_path).stdout
    metrics = json.loads((run_folder(tmp_path) / "metrics.json").read_text())
    assert metrics["localisation/precision"] == metrics["localisation/recall"]  # as many as are planted
    assert {key.split("/")[0] for key in metrics} == {"localisation"}
    assert "planted units" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mask=planted"], "mask=planted: nothing is planted; allowed with model.target.plant=SHARE"),
        (["mask=planted", *PLANT, "attribution.unit=hidden"], "units are planted in row"),
        (["model.target.plant=0.6"], "model.target.plant=0.6"),
        ([*PLANT, *TOFU, "data.retain_rows=2"], "2 retained rows, of which 10 become decoys; allowed are more"),
    ],
)
def test_what_cannot_be_planted_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    small = [word for word in RUN if not word.startswith("data.")] if "data=tofu" in words else RUN
    done = simu(*small, *words, "dry_run=true", "tracker=none", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
