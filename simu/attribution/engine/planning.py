"""What an attribution will cost, before it runs: bytes and FLOPs by stage, and the cut of the work that fits a limit.

Bytes of activations are not guessed: one block of the model runs on the meta device (shapes only, no weights) and what
autograd keeps is added up. FLOPs are counted, two a multiply-add: linear layers and attention.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simu.attribution.engine.capture import LENGTH_DEPENDENT, Layout, Position, layout, undisturbed
from simu.attribution.engine.cutting import Cut, MicroBatch, Sizes
from simu.attribution.engine.engine import Engine
from simu.attribution.path import path_points
from simu.types import NeuronUnit, UserError

GIB = 2**30


@dataclass(frozen=True)
class Stage:
    name: str
    bytes: int
    """Held at the peak of the run."""
    flops: float
    """In the whole run."""


@dataclass(frozen=True)
class Plan:
    """A cut of the work into micro-batches and passes, with its predicted cost. `print(plan)` shows it as a table."""

    stages: tuple[Stage, ...]
    micro_batches: tuple[MicroBatch, ...]
    recompute: bool
    logits_rows: int
    limit: int | None
    """Bytes allowed; None: no limit was given or known."""
    samples: int
    """Next-token samples Σ_i."""
    neurons: int

    @property
    def peak(self) -> int:
        """Predicted peak memory in bytes, weights included."""
        return sum(stage.bytes for stage in self.stages)

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    @property
    def passes(self) -> int:
        """Passes, forward and backward."""
        return sum(len(micro.passes) for micro in self.micro_batches)

    def __str__(self) -> str:
        lines = [f"{'attribution plan':<34}{'GiB at peak':>12}{'TFLOP':>12}"]
        lines += [f"  {s.name:<32}{s.bytes / GIB:>12.3f}{s.flops / 1e12:>12.3f}" for s in self.stages]
        lines += [f"  {'all':<32}{self.peak / GIB:>12.3f}{self.flops / 1e12:>12.3f}"]
        limit = "none" if self.limit is None else f"{self.limit / GIB:.2f} GiB"
        lines += [
            f"  {self.neurons} neurons, {self.samples} next-token samples, {len(self.micro_batches)} micro-batches, "
            f"{self.passes} passes, recomputation {'on' if self.recompute else 'off'}, limit {limit}"
        ]
        return "\n".join(lines)


def plan(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    m: int = 5,
    unit: NeuronUnit = "row",
    position: Position = "next_token",
    layers: str = "single",
    path: str = "gauss",
    max_memory: float | None = None,
    recompute: bool | None = None,
    groups: int = 1,
    device: torch.device | str | None = None,
) -> Plan:
    """The cut of an attribution that fits `max_memory`, and its cost by stage. `model` may be on meta.

    batches: as `neuron_attribution` takes them; only attention_mask and labels are read.
    max_memory: GiB for everything, weights included. None: on a GPU 85 % of its memory, elsewhere no limit (a pass
        never takes more than pays off).
    recompute: keep only the blocks' inputs and run each block again backwards. None: only if nothing else fits.
    device: where it will run; None: where the model is.

    Raises UserError where not even one row with one path point fits, saying how much it needs.
    """
    rows = [_lengths(batch, position) for batch in batches]
    T, N = (max([row[i] for batch in rows for row in batch] + [1]) for i in (0, 1))
    sizes = Sizes.of(model, saved_bytes(_meta_twin(model), T, N) / N, unit)
    place = torch.device(device) if device is not None else next(model.parameters()).device
    limit = None if max_memory is None else int(max_memory * GIB)
    if limit is None and place.type == "cuda" and torch.cuda.is_available():
        limit = int(0.85 * torch.cuda.get_device_properties(place).total_memory)
    shared = path_points(m, path)[0][-1] == 1.0 and layers == "single"
    for again in [recompute] if recompute is not None else [False, True]:
        cut = Cut(sizes, m, shared, layers == "all", again, limit, place.type, groups)
        found = [cut.micro_batches(i, batch) for i, batch in enumerate(rows)]
        if None not in found:
            samples = sum(row[2] for batch in rows for row in batch)
            return _counted(cut, tuple(micro for cuts in found for micro in cuts or ()), samples)
    widest = MicroBatch(0, (0,), T, N)
    needed = (cut.fixed(widest) + cut.least(N)) / GIB
    raise UserError(
        f"attribution.max_memory={max_memory}: one row of {T} tokens needs {needed:.3f} GiB; allowed is at "
        "least that, or shorter rows (model.max_length)"
    )


def _lengths(batch: Mapping[str, Tensor], position: Position) -> list[tuple[int, int, int]]:
    """(tokens, shadow positions, samples) of each row."""
    mask = batch["attention_mask"].cpu()
    where = layout(batch["labels"].cpu(), mask, position)
    counts = (mask.sum(1), where.valid.sum(1), where.scored.sum(1))
    return [(int(t), int(n), int(s)) for t, n, s in zip(*counts, strict=True)]


def _counted(cut: Cut, micro_batches: tuple[MicroBatch, ...], samples: int) -> Plan:
    """Bytes of the micro-batch that holds most at once; FLOPs of all."""

    def streams(micro: MicroBatch) -> float:
        return max(cut.held(micro, one) for one in micro.passes)

    flops = [sum(part) for part in zip(*(cut.flops(micro) for micro in micro_batches), strict=True)] or [0.0, 0.0, 0.0]
    largest = max(micro_batches, key=lambda micro: cut.fixed(micro) + streams(micro), default=None)
    held = (0, 0, 0) if largest is None else (cut.clean(largest), int(streams(largest)), cut.sums(largest))
    stages = (
        Stage("weights", cut.sizes.weights, 0.0),
        Stage("clean pass (β, keys, values)", held[0], flops[0]),
        Stage("shadow streams", held[1], flops[1]),
        Stage("head and loss", cut.logits(), flops[2]),
        Stage("sums", held[2], 0.0),
    )
    return Plan(stages, micro_batches, cut.recompute, cut.logits_rows, cut.limit, samples, cut.sizes.n_neurons)


# ---- what a block keeps, measured on the meta device


def _meta_twin(model: nn.Module) -> nn.Module:
    """Two layers of the same architecture and type without weights; its rotary embedding looks at no values."""
    hf: Any = model
    config = copy.deepcopy(hf.config)
    text = config.get_text_config()
    text.num_hidden_layers = min(2, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    _plain_rotation(text)
    with torch.device("meta"):
        twin: Any = type(model)(config)
    return twin.to(hf.dtype)


def _plain_rotation(config: Any) -> None:
    """Turn length-dependent rotary embeddings of `config` into plain ones (same sizes)."""
    given = getattr(config, "rope_parameters", None) or {}
    for rope in (given, *list(given.values())):
        if isinstance(rope, dict) and rope.get("rope_type") in LENGTH_DEPENDENT:
            kept = {k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}
            rope.clear()
            rope.update(kept, rope_type="default")


def saved_bytes(twin: nn.Module, T: int, N: int) -> int:
    """Bytes that autograd keeps of one block, beyond weights, for one stream of N positions in a row of T tokens.

    Measured, not guessed: a block of the meta twin runs forward and what it saves is added up.
    """
    weights = {id(p) for p in twin.parameters()}
    held: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        base = x if x._base is None else x._base
        if id(base) not in weights:
            held[id(base)] = base
        return x

    meta = torch.device("meta")
    whole = torch.ones(1, N, dtype=torch.bool, device=meta)
    where = Layout(
        positions=torch.zeros(1, N, dtype=torch.long, device=meta),
        valid=whole,
        scored=whole,
        target=torch.zeros(1, N, dtype=torch.long, device=meta),
        inject=whole,
        clean_keys=torch.ones(1, N, T, dtype=torch.bool, device=meta),
        own_keys=torch.ones(1, N, N, dtype=torch.bool, device=meta),
        alone=True,
    )
    with undisturbed(twin):
        engine = Engine(twin)
        clean = engine.clean({"input_ids": torch.zeros(1, T, dtype=torch.long, device=meta)}, where)
        layer = min(1, engine.parts.n_layers - 1)
        leaf = torch.zeros_like(clean.inputs[layer]).requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            engine.block(clean, layer, leaf, None, None)
    return sum(x.untyped_storage().nbytes() for x in held.values())
