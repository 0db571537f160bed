"""What cannot be treated exactly is refused by name with the reason, never approximated."""

import pytest
import torch
from torch import nn

from simu.attribution import neuron_attribution
from simu.types import UserError


def refused(model, batch, reason):
    with pytest.raises(UserError, match=reason) as error:
        neuron_attribution(model, [batch], m=2)
    assert type(model).__name__ in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mixture_of_experts(reference):
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    refused(reference.model("mixtral", **reference.small, **experts), reference.batch([(2, 3)]), "mixture of experts")


def test_attention_that_looks_ahead(reference):
    model = reference.model("gemma3_text", **reference.small, layer_types=["full_attention"] * 3)
    model.config.use_bidirectional_attention = True
    refused(model, reference.batch([(2, 3)]), "looks ahead")


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_rotary_embedding_that_depends_on_the_length(kind, reference):
    rope = {
        "rope_type": kind,
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 8,
        "long_factor": [4.0, 4.0],
        "short_factor": [1.0, 1.0],
    }
    if kind == "dynamic":
        rope = {k: rope[k] for k in ("rope_type", "rope_theta", "factor")}
    model = reference.model("llama", **reference.small, rope_parameters=rope, max_position_embeddings=8)
    refused(model, reference.batch([(4, 6)]), f"{kind}.*row of 10")
    assert neuron_attribution(model, [reference.batch([(3, 5)])], m=2).any()  # short rows are fine


class Recurrent(nn.Module):
    """Wraps a block and mixes each position with the one before it, outside attention."""

    def __init__(self, mlp):
        super().__init__()
        self.inner, self.down_proj = mlp, mlp.down_proj

    def forward(self, x):
        return self.inner(x + x.roll(1, 1))


def test_blocks_that_mix_positions_outside_attention_are_found_out(reference):
    """The engine re-runs its blocks on the kept positions and compares with the model's own output."""
    model = reference.model("llama", **reference.small)
    model.model.layers[1].mlp = Recurrent(model.model.layers[1].mlp)
    refused(model, reference.batch([(4, 6)]), "cannot be treated exactly")


def test_an_argument_that_runs_over_positions_and_is_not_known(reference):
    model = reference.model("llama", **reference.small)

    def extra(block, args, kwargs):
        return args, {**kwargs, "token_weights": torch.ones(1, 5)}

    for block in model.model.layers:
        block.register_forward_pre_hook(extra, with_kwargs=True)
    refused(model, reference.batch([(2, 3)]), "token_weights")
