"""Any seed below 2^63 is taken and all its bits count; `~` is the home folder wherever a path is."""

from __future__ import annotations

import pytest
import torch
from every_field import changed, default

from simu.config import build_run, check_run
from simu.data.batching import pairing_table
from simu.data.lume import Lume
from simu.data.refusals import refusals
from simu.data.tofu import Tofu
from simu.evaluation.tofu import TofuEvaluator
from simu.fields import narrow
from simu.losses.forget.rmu import steering_vector
from simu.masks.random import random_neurons
from simu.stages.attribution import sample
from simu.types import Example, FieldError, UserError

ROWS = tuple(Example(id=str(i), prompt="p", answer=f"a{i}") for i in range(40))
DRAWS = {
    "pairs": lambda seed: pairing_table(20, 30, 2, seed)[0].tolist(),
    "mask": lambda seed: random_neurons(torch.tensor([20, 20]), 40, seed).tolist(),
    "direction": lambda seed: steering_vector(16, 1.0, seed).tolist(),
    "sample": lambda seed: [row.id for row in sample(ROWS, 20, seed)],
    "refusals": lambda seed: [row.answer for row in refusals(ROWS, seed)],
}
LARGE = (2**32, 2**32 + 1, 1764093600123456, 2**63 - 2, 2**63 - 1)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_large_seeds_draw_and_differ(draw):
    """torch on a CPU reads 32 bits alone: 1 and 2^32 + 1 would be one stream."""
    found = [draw(seed) for seed in (0, 1, *LARGE)]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert draw(LARGE[-1]) == found[-1]


def test_small_seeds_are_themselves():
    assert [narrow(seed) for seed in (0, 1, 2**32 - 1)] == [0, 1, 2**32 - 1]
    assert all(0 <= narrow(seed) < 2**32 for seed in LARGE)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**400], ids=["negative", "2^63", "400 digits"])
def test_other_seeds_are_refused(seed):
    with pytest.raises(UserError, match=r"^seed=.*: allowed is a whole number, 0 ≤ x ≤ 2\^63 − 1$"):
        check_run(changed(default(), ("seed",), seed))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_home_in_every_path(home):
    config = changed(default(), ("cache_dir",), "~/cache")
    assert build_run(config).cache_dir == f"{home}/cache"
    assert Tofu(path="~/tofu").path == f"{home}/tofu"
    assert TofuEvaluator(embedding_model="~/encoder").embedding_model == f"{home}/encoder"
    lume = Lume(path="~", mia_set="files", mia_member_file="~/a", mia_nonmember_file="~/b")
    assert (lume.path, lume.mia_member_file, lume.mia_nonmember_file) == (home, f"{home}/a", f"{home}/b")


def test_paths_that_no_file_system_has():
    for path in ("", "x" * 256, "x/" * 2048):
        with pytest.raises(FieldError, match=r"path=.*: allowed is a folder or file or null"):
            Tofu(path=path)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (("precision",), "fp16", "precision='fp16': this is a group; allowed are its keys, precision.weights,"),
        (("model", "target"), 5, "model.target=5: this is a group; allowed are its keys, model.target.lr,"),
        (("model", "max_length"), 1, "model.max_length=1: allowed is a whole number, 2 ≤ x ≤"),
        (("model", "layers"), 10**5000, "model.layers=a number of 16610 bits: allowed is a whole number, 1 ≤ x ≤ 1024"),
        (("model", "template"), {"_target_": "simu.masks.Random"}, "model.template._target_: Template has no such"),
        (("tracker", "table_rows"), 2**63, "tracker.table_rows=9223372036854775808: allowed is a whole number, 0 ≤"),
        (
            ("objective", "forget"),
            {"_target_": "simu.masks.random.Random"},
            "objective.forget._target_=simu.masks.random",
        ),
        (("data", "name"), "\0", "data.name='\\x00': allowed is a text"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str | tuple) else "value",
)
def test_groups_and_numbers(key, value, line):
    with pytest.raises(UserError) as error:
        build_run(changed(default(), key, value))
    assert str(error.value).startswith(line)
