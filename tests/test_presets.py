"""A preset applies where model, data, method and the slot's option are those it belongs to, and nowhere else."""

from __future__ import annotations

import pytest
import yaml
from hydra import compose, initialize_config_dir

from simu.config import conf_dir
from simu.presets import read, register, taken
from simu.types import UserError


def composed(*overrides: str):
    register(conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def own(slot: str, option: str, key: str):
    return yaml.safe_load((conf_dir() / slot / f"{option}.yaml").read_text())[key]


@pytest.mark.parametrize("model", ["tiny", "llama2_7b", "olmo_1b"])
@pytest.mark.parametrize("data", ["mini", "tofu", "lume"])
@pytest.mark.parametrize("method", ["simu", "fo_graddiff", "so_graddiff"])
def test_an_option_chosen_by_hand_has_its_own_values(model, data, method):
    where = (f"model={model}", f"data={data}", f"method={method}")
    assert composed(*where, "objective=satimp").objective.retain_weight == own("objective", "satimp", "retain_weight")
    optimizer = "sophia_soul" if method == "fo_graddiff" else "adamw"
    assert composed(*where, f"optimizer={optimizer}").optimizer.lr == float(own("optimizer", optimizer, "lr"))
    kl = composed(*where, "objective/retain=kl").objective
    assert kl.retain_weight == own("objective", "graddiff", "retain_weight")


def test_satimp_has_satimps_lambda():
    assert own("objective", "satimp", "retain_weight") == 10.0  # the value of its source's configuration


@pytest.mark.parametrize(("mask", "t"), [("dual", 0.1), ("forget_only", 0.1), ("random", 0.1), ("contrastive", 0.3)])
def test_the_printed_threshold_is_of_the_papers_masks_and_of_the_control_of_equal_counts(mask, t):
    assert composed("model=llama2_7b", "data=lume", "method=simu", f"mask={mask}").mask.t == t


def test_the_command_line_wins():
    config = composed("model=llama2_7b", "data=tofu", "method=simu", "optimizer.lr=3e-7", "objective.retain_weight=9")
    assert (config.optimizer.lr, config.objective.retain_weight, config.mask.t) == (3e-7, 9, 0.3)


def test_a_run_names_what_it_took():
    config = composed("model=llama2_7b", "data=tofu", "method=simu", "optimizer.lr=3e-7", "mask=all")
    choices = {k: str(v) for k, v in config.hydra.runtime.choices.items()}
    assert taken(conf_dir(), choices, config) == {
        "attribution.m": 5,
        "attribution.batch_size": 16,
        "attribution.path": "right",
        "objective.retain_weight": 2.0,
        "training.batch_size": 16,
        "training.epochs": 5,
    }


def test_every_preset_speaks_of_options_and_keys_that_there_are():
    found = list(read(conf_dir()))
    assert len(found) > 50
    for name, slot, option, values in found:
        chosen = option.split("-")[0]
        keys = set(yaml.safe_load((conf_dir() / slot / f"{chosen}.yaml").read_text()))
        assert set(values) <= keys, (name, slot, option)


def test_a_preset_of_another_form_is_one_line(tmp_path):
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "x.yaml").write_text("optimiser: {adamw: {lr: 1}}\n")
    with pytest.raises(UserError, match=r"x\.yaml: allowed are the slots"):
        list(read(tmp_path))
