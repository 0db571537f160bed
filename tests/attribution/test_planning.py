"""Memory: predicted, respected; FLOPs counted; nothing of it needs weights."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from simu.attribution import Integrated, neuron_attribution, plan
from simu.types import UserError


class Peak(TorchDispatchMode):
    """Most bytes of tensors alive at once, beyond a model's own."""

    def __init__(self, model):
        super().__init__()
        self.live = dict.fromkeys(x.untyped_storage()._cdata for x in [*model.parameters(), *model.buffers()])
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.device.type != "meta":
                self.see(x.untyped_storage())
        return out

    def see(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.live:
            return

        def gone(_):
            self.live.pop(key, None)
            self.now -= size

        self.live[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def batch():
    ids = torch.randint(500, (6, 60), generator=torch.Generator().manual_seed(0))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(torch.arange(60) < 30, -100),
    }


WEIGHTS = 4 * (2 * 500 * 128 + 6 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 352 + 2 * 128) + 128)  # by hand
GIB = 2**30


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"recompute": True},
        {"position": "sequence"},
        {"layers": "all", "path": "midpoint"},
        {"unit": "hidden"},
        {"unit": "hidden", "reduction": "absolute"},
        {"unit": "hidden", "max_memory": (WEIGHTS + 12e6) / GIB},
        {"max_memory": (WEIGHTS + 24e6) / GIB},
        {"max_memory": (WEIGHTS + 9e6) / GIB},
        {"max_memory": (WEIGHTS + 4e6) / GIB},
    ],
    ids=str,
)
def test_the_prediction_is_an_upper_bound_and_not_absurd(settings, model, batch):
    predicted = plan(model, [batch], m=4, **{k: v for k, v in settings.items() if k != "reduction"})
    with Peak(model) as seen:
        neuron_attribution(model, [batch], m=4, **settings)
    if "max_memory" in settings:
        assert predicted.peak <= settings["max_memory"] * GIB
    assert predicted.stages[0].bytes - WEIGHTS in range(4096)  # rotary buffers
    assert seen.peak <= predicted.peak - WEIGHTS <= 4 * seen.peak


def test_a_tight_limit_changes_the_cut_and_not_the_scores(model, batch):
    free, tight = {"m": 4}, {"m": 4, "max_memory": (WEIGHTS + 4e6) / GIB}
    assert plan(model, [batch], **tight).passes > plan(model, [batch], **free).passes
    assert len(plan(model, [batch], **tight).micro_batches) > 1
    a, b = (neuron_attribution(model, [batch], **x) for x in (free, tight))
    assert float((a - b).abs().max() / a.abs().max()) < 1e-4


def test_a_limit_that_nothing_fits_says_what_is_needed(model, batch):
    with pytest.raises(UserError, match=r"max_memory=0\.001: one row of 60 tokens needs 0\.00\d GiB"):
        neuron_attribution(model, [batch], max_memory=0.001)


def test_recomputation_is_chosen_only_when_asked_or_needed(model, batch):
    assert not plan(model, [batch]).recompute
    assert plan(model, [batch], recompute=True).recompute
    deep = LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=512, num_hidden_layers=24, num_attention_heads=4
    )
    with torch.device("meta"):
        twin = LlamaForCausalLM(deep)
    weights = plan(twin, [batch]).stages[0].bytes
    assert plan(twin, [batch], max_memory=(weights + 6e6) / GIB).recompute


def test_flops_by_hand(model, batch):
    """m=1, right: one clean pass and one stream through all layers, forward and backward (inputs only); for what a
    layer's scores should add up to, a stream through the layers above it, forward, and the head on each and on β's."""
    made = plan(model, [batch], m=1, path="right")
    block = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 352
    clean = 6 * 60 * 6 * (2 * block + 4 * 128 * 60)
    streams = 6 * 30 * 6 * (4 * block + 3 * 4 * 128 * (60 + 30))
    streams += 6 * 30 * (5 + 4 + 3 + 2 + 1) * (2 * block + 4 * 128 * (60 + 30))
    tail = 6 * 30 * 4 * 128 * 500 + 6 * 30 * (1 + 6) * 2 * 128 * 500
    assert [s.flops for s in made.stages] == [0, clean, streams, tail, 0]
    assert made.samples == 6 * 30


def test_flops_of_hidden_neurons_by_hand(model, batch):
    """Beyond rows: for each pass and layer a product of gradients [180, 128] with the down-projection [128, 352]."""
    rows, hidden = (plan(model, [batch], m=1, path="right", unit=unit) for unit in ("row", "hidden"))
    assert rows.passes == hidden.passes == 1
    assert hidden.stages[2].flops - rows.stages[2].flops == 6 * (6 * 30) * 2 * 128 * 352
    assert (rows.neurons, hidden.neurons) == (6 * 128, 6 * 352)
    assert [a.flops == b.flops for a, b in zip(rows.stages, hidden.stages, strict=True)].count(False) == 1


def test_more_path_points_cost_the_layers_above_only(model, batch):
    one, two, three = (plan(model, [batch], m=m, path="right").stages[2].flops for m in (1, 2, 3))
    assert three - two == pytest.approx(two - one)  # 5+4+3+2+1+0 = 15 block passes; entering costs none
    gauss = (
        plan(model, [batch], m=3, path="gauss").stages[2].flops
        - plan(model, [batch], m=2, path="gauss").stages[2].flops
    )
    assert gauss == pytest.approx(two - one)


def test_llama2_7b_is_planned_without_weights():
    config = LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    with torch.device("meta"):
        twin = LlamaForCausalLM(config).bfloat16()
    ids = torch.zeros(4, 80, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids + 1, "labels": ids.masked_fill(torch.arange(80) < 40, -100)}
    made = Integrated(m=5, max_memory=40.0).plan(twin, [batch])
    assert made.neurons == 131072
    assert made.stages[0].bytes == pytest.approx(2 * 6_738_415_616, rel=1e-4)
    assert made.peak <= 40 * GIB
    text = str(made)
    for word in ("weights", "shadow streams", "TFLOP", "131072 neurons", "160 next-token samples", "limit 40.00 GiB"):
        assert word in text
