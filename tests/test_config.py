"""`build`: from a node to its component, and every mistake in one line that names key, value and what is allowed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from simu.config import SLOTS, RunConfig, build, conf_dir, nearest
from simu.fields import bare, hints
from simu.schema import check_node
from simu.types import UserError

RANDOM = {"_target_": "simu.masks.Random", "t": 0.3, "seed": 0}


def test_builds_with_nested_dataclass_and_tuple():
    from simu.models import FromConfig

    node = {
        "_target_": "simu.models.FromConfig",
        "name": "x",
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 8,
        "layers": 1,
        "heads": 2,
        "kv_heads": 1,
        "vocab_size": 300,
        "max_length": 64,
        "dtype": "float32",
        "choice_scorer": "rouge_l",
        "template": {"prompt": "Q {prompt}", "separator": " "},
        "target": {
            "lr": "2e-3",
            "batch_size": 4,
            "max_epochs": 1,
            "memorised": 1,
            "check_every": 1,
            "weight_decay": 0.0,
        },
    }
    model = build(node, "model")
    assert isinstance(model, FromConfig)
    assert model.template.render("a") == "Q a"
    assert model.target.lr == 0.002
    node["template"] = {"prompt": "no place for it", "separator": " "}
    with pytest.raises(UserError, match=r"model\.template\.prompt='no place for it': allowed is a text that holds"):
        build(node, "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": 1.5}, r"mask\.t=1\.5: allowed is"),
        ({"t": "much"}, r"mask\.t='much': allowed is a finite number"),
        ({"t": True}, r"mask\.t=True: allowed is a finite number"),
        ({"seed": 1.5}, r"mask\.seed=1\.5: allowed is a whole number"),
        ({"sede": 1}, r"mask\.sede: Random has no such field; did you mean 'seed'\?"),
        ({"_target_": "os.system"}, r"mask\._target_=os\.system: allowed are components of simu only"),
        ({"_target_": "simu.masks.Rondom"}, r"mask\._target_=simu\.masks\.Rondom: no such component"),
        ({"_target_": "simu.store.files.digest"}, r"not a component"),
    ],
)
def test_mistakes_are_one_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        build(RANDOM | change, "mask")
    assert "\n" not in str(caught.value)


def test_missing_field_and_missing_node():
    with pytest.raises(UserError, match=r"tracker\.mode: missing; Wandb needs it"):
        build({"_target_": "simu.tracking.Wandb"}, "tracker")
    with pytest.raises(UserError, match="mask=None: allowed is one of the options in conf/mask/"):
        build(None, "mask")


def test_nearest():
    assert nearest("betta", ["beta", "gamma"]) == "; did you mean 'beta'?"
    assert nearest("zzz", ["beta", "alpha"]) == "; known: alpha, beta"


def test_conf_dir_from_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMU_CONF", str(tmp_path))
    with pytest.raises(UserError, match=r"no config\.yaml there"):
        conf_dir()
    (tmp_path / "config.yaml").touch()
    assert conf_dir() == tmp_path.resolve()


SLOT_TARGETS = {
    slot: yaml.safe_load(next(iter(sorted((conf_dir() / slot).glob("*.yaml")))).read_text()) for slot in SLOTS
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("other", SLOTS)
def test_a_component_of_another_slot_is_refused(slot, other):
    """By the class, and before it is imported by its source."""
    if slot == other:
        return
    node = {k: v for k, v in SLOT_TARGETS[other].items() if k != "defaults"}
    kind = bare(hints(RunConfig)[slot])
    for check in (build, check_node):
        with pytest.raises(UserError, match=rf"^{slot}\._target_=simu\.\S+: not for this slot \(it ") as caught:
            check(node, slot, kind)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=9223372036854775808", r"seed=9223372036854775808: allowed is a whole number, 0 ≤ x ≤ 2\^63 − 1"),
        ("seed=-1", r"seed=-1: allowed is a whole number, 0 ≤ x ≤ 2\^63 − 1"),
        (
            "model.layers=90000000000000000000",
            r"model\.layers=90000000000000000000: allowed is a whole number, 1 ≤ x ≤",
        ),
        ("optimizer.lr=1e308", r"optimizer\.lr=1e\+308: allowed is a finite number, 0 < x ≤"),
        ("optimizer.lr=0", r"optimizer\.lr=0: allowed is a finite number, 0 < x ≤"),
        ("optimizer.betas=[0.9]", r"optimizer\.betas=\[0\.9\]: allowed is a list of 2 "),
        ("optimizer.betas=[0.9,1.5]", r"optimizer\.betas=\[0\.9, 1\.5\]: allowed is a list of 2 "),
        ("precision.weights=fp16", r"precision\.weights='fp16': allowed is float32, bfloat16 or float64"),
        ("model.heads=0", r"model\.heads=0: allowed is a whole number, 1 ≤ x"),
        ("objective.forget_weight=-1", r"objective\.forget_weight=-1: allowed is a finite number, 0 ≤ x"),
        ("evaluator.attacks=[loss,guess]", r"evaluator\.attacks=\['loss', 'guess'\]: allowed is a list of loss,"),
        ("data.name=null", r"data\.name=None: allowed is a text"),
        ("save_model=1", r"save_model=1: allowed is true or false"),
    ],
)
def test_a_plain_value_is_refused_without_torch(word, message):
    """In a process of its own: torch must not have been imported when the line is said."""
    code = (
        "import sys\nfrom hydra import compose, initialize_config_dir\nfrom simu.config import check_run, conf_dir\n"
        "with initialize_config_dir(str(conf_dir()), version_base='1.3'):\n"
        "    config = compose('config', overrides=sys.argv[1:])\n"
        "try:\n    check_run(config)\nexcept ValueError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules\nassert 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(message, done.stdout)
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("module", ["simu.cache", "simu.report.__main__", "simu.cli.cache", "simu", "simu.config"])
def test_imports_no_torch(module):
    code = f"import {module}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_leave_knobs_and_seed_out():
    from hydra import compose, initialize_config_dir

    from simu.config import build_run, plain, settings

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=["data=tofu", "data.path=/a/b"])
    found = settings(build_run(config), plain(config))
    assert found["mask.t"] == 0.3
    assert found["mask._target_"] == "Dual"
    assert found["objective.forget._target_"] == "Ascent"
    assert found["data.path"] == "b"
    left_out = {"seed", "device", "cache_dir", "tracker.mode", "training.checkpoint_every"}
    assert not left_out & set(found)
