"""A number that the model's sizes limit is refused before its weights are made or loaded."""

from __future__ import annotations

import copy

import pytest
from every_field import changed, configs, default

from simu.checks import check_sizes
from simu.config import build_run
from simu.types import UserError


def with_layers(forget: int, retain: int):
    rmu = next(c["objective"]["forget"] for c in configs() if c["objective"]["forget"]["_target_"].endswith("RMU"))
    hidden = next(
        c["objective"]["retain"] for c in configs() if c["objective"]["retain"]["_target_"].endswith("Hidden")
    )
    config = copy.deepcopy(default())
    config["objective"] |= {"forget": rmu | {"layer": forget}, "retain": hidden | {"layer": retain}}
    return build_run(config)


def test_a_layer_outside_the_model():
    """The tiny model has four."""
    check_sizes(with_layers(3, 0))
    for layers, key in (((4, 0), "forget"), ((0, 4), "retain")):
        with pytest.raises(UserError, match=rf"^objective\.{key}\.layer=4: allowed is x ≤ 3, the last layer of tiny$"):
            check_sizes(with_layers(*layers))


def test_a_rank_above_the_width():
    lora = next(config["selection"] for config in configs() if config["selection"]["_target_"].endswith("Lora"))
    check_sizes(build_run(default() | {"selection": lora | {"r": 128}}))
    with pytest.raises(UserError, match=r"^selection\.r=129: allowed is x ≤ 128, the width of tiny$"):
        check_sizes(build_run(default() | {"selection": lora | {"r": 129}}))


def test_more_neurons_than_there_are():
    """The tiny model has 4 layers of 128."""
    top = next(config["mask"] for config in configs() if config["mask"]["_target_"].endswith("Top"))
    for within, most, what in (("all", 512, "number of neurons"), ("layer", 128, "number of neurons a layer")):
        chosen = top | {"share": None, "within": within}
        check_sizes(build_run(default() | {"mask": chosen | {"count": most}}))
        with pytest.raises(UserError, match=rf"^mask\.count={most + 1}: allowed is x ≤ {most}, the {what} of tiny$"):
            check_sizes(build_run(default() | {"mask": chosen | {"count": most + 1}}))
    check_sizes(build_run(default() | {"mask": top | {"within": "layer"}}))
    for share, count in ((0.1, 5), (None, None)):
        with pytest.raises(UserError, match=r"^mask\.count=\w+: allowed is one of share and count, the other null"):
            build_run(default() | {"mask": top | {"share": share, "count": count}})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("bert", "bert is no causal language model"),
        ("t5", "t5 is an encoder-decoder"),
        ("mixtral", "is a mixture of experts"),
        ("mamba", "model.model_type=mamba"),
        ("no_such", "model.model_type='no_such': "),
    ],
)
def test_an_architecture_that_is_no_dense_decoder(kind, says):
    """Before a target of it is taught."""
    model = build_run(changed(default(), ("model", "model_type"), kind)).model
    with pytest.raises(UserError, match=says) as error:
        model.check("mini")
    assert str(error.value).startswith("model.model_type=")
