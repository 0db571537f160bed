"""`build`: from a node to its component, and every mistake in one line that names key, value and what is allowed."""

from __future__ import annotations

import pytest

from simu.config import build, conf_dir, nearest
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
