"""What an attribution will cost, before it runs: bytes and FLOPs by stage, and the cut of the work that fits a limit.

Bytes of activations are not guessed: one block of the model runs on the meta device (shapes only, no weights) and what
autograd keeps is added up. FLOPs are counted: 2 a multiply-add, linear layers and attention.

Shapes: B rows, T tokens, N shadow positions (of the longest row), P path points, L layers, D d_model, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simu.attribution.shadow import LENGTH_DEPENDENT, Engine, Layout, Position, layout, precise, undisturbed
from simu.models.anatomy import Anatomy, anatomy
from simu.types import UserError

GIB = 2**30
ENOUGH = {"cuda": 16 * GIB, "cpu": 48 * 2**20}
"""Bytes of activations in one pass beyond which a larger pass is not faster (docs/attribution.md)…"""
ENOUGH_TOKENS = 256
"""… unless it holds fewer shadow positions than this."""


@dataclass(frozen=True)
class Unit:
    """One forward and backward: the streams of these layers at these path points. `points` None: the clean end, a = β,
    which all layers share."""

    layers: tuple[int, ...]
    points: tuple[int, ...] | None


@dataclass(frozen=True)
class Piece:
    """Rows of a batch that run together, and their units in order."""

    batch: int
    rows: slice
    units: tuple[Unit, ...]
    tokens: int
    """Shadow positions N · rows."""


@dataclass(frozen=True)
class Stage:
    name: str
    bytes: int
    """Held at the peak of the run."""
    flops: float
    """In the whole run."""


@dataclass(frozen=True)
class Plan:
    """A cut of the work into pieces and units, with its predicted cost. `print(plan)` shows it as a table."""

    stages: tuple[Stage, ...]
    pieces: tuple[Piece, ...]
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
    def units(self) -> int:
        return sum(len(piece.units) for piece in self.pieces)

    def __str__(self) -> str:
        lines = [f"{'attribution plan':<34}{'GiB at peak':>12}{'TFLOP':>12}"]
        lines += [f"  {s.name:<32}{s.bytes / GIB:>12.3f}{s.flops / 1e12:>12.3f}" for s in self.stages]
        lines += [f"  {'all':<32}{self.peak / GIB:>12.3f}{self.flops / 1e12:>12.3f}"]
        limit = "none" if self.limit is None else f"{self.limit / GIB:.2f} GiB"
        lines += [f"  {self.neurons} neurons, {self.samples} next-token samples, {len(self.pieces)} micro-batches, "
                  f"{self.units} passes, recomputation {'on' if self.recompute else 'off'}, limit {limit}"]  # fmt: skip
        return "\n".join(lines)


@dataclass(frozen=True)
class Sizes:
    """What the plan has to know of a model."""

    parts: Anatomy
    dtype: torch.dtype
    weights: int
    attention_weights: int
    """Weights of one layer's attention projections."""
    mlp_weights: int
    """Weights of one layer's other matrices."""
    query_width: int
    """Heads · head size."""
    key_width: int
    """Key-value heads · head size."""
    vocabulary: int

    @classmethod
    def of(cls, model: nn.Module) -> Sizes:
        hf: Any = model
        parts, config = anatomy(model), hf.config.get_text_config()
        block = parts.blocks[0]
        attention = sum(module.weight.numel() for _, module in parts.attention[0])  # type: ignore[misc, operator]
        matrices = sum(p.numel() for p in block.parameters() if p.dim() == 2)
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or parts.d_model // heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        weights = {id(p): p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers())}
        return cls(parts, hf.dtype, sum(weights.values()), int(attention), int(matrices - attention), heads * size,
                   keys * size, int(config.vocab_size))  # fmt: skip

    @property
    def element(self) -> int:
        return self.dtype.itemsize


def plan(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    m: int = 5,
    position: Position = "next_token",
    layers: str = "single",
    path: str = "right",
    max_memory: float | None = None,
    recompute: bool | None = None,
    groups: int = 1,
    device: torch.device | str | None = None,
) -> Plan:
    """The cut of an attribution that fits `max_memory`, and its cost by stage. `model` may be on meta.

    batches: as `neuron_attribution` takes them; only attention_mask and labels are read.
    max_memory: GiB for everything, weights included. None: on a GPU 85 % of its memory, elsewhere no limit (a pass
        never takes more than pays off).
    device: where it will run; None: where the model is.
    recompute: keep only the blocks' inputs and run each block again backwards. None: only if nothing else fits.

    Raises UserError where not even one row with one path point fits, saying how much it needs.
    """
    twin = _meta_twin(model)
    sizes = Sizes.of(twin)
    limit = None if max_memory is None else int(max_memory * GIB)
    place = torch.device(device) if device is not None else next(model.parameters()).device
    if limit is None and place.type == "cuda" and torch.cuda.is_available():
        limit = int(0.85 * torch.cuda.get_device_properties(place).total_memory)
    enough = ENOUGH.get(place.type, ENOUGH["cpu"])
    shared = path == "right" and layers == "single"
    points = m - 1 if shared else m
    shapes = []
    for batch in batches:
        where = layout(batch["labels"].cpu(), batch["attention_mask"].cpu(), position)
        shapes.append((*batch["labels"].shape, where.positions.shape[1], int(where.scored.sum())))
    shapes = [(int(b), int(t), int(n), int(s)) for b, t, n, s in shapes]
    widest = max(((t, n) for _, t, n, _ in shapes), key=lambda s: (s[1], s[0]), default=(1, 1))
    T, N = max((t for _, t, _, _ in shapes), default=1), max(1, widest[1])
    saved = saved_bytes(twin, T, N) / N
    choices = [recompute] if recompute is not None else [False, True]
    for again in choices:
        for rows in _halvings(max((b for b, *_ in shapes), default=1)):
            cut = _Cut(sizes, saved, again, limit, groups, enough)
            if cut.fits(rows, T, N):
                return _made(cut, shapes, rows, points, shared, layers == "all", T, N)
    cut = _Cut(sizes, saved, choices[-1], limit, groups, enough)
    needed = (cut.fixed(1, T, N) + cut.least(N)) / GIB
    raise UserError(f"attribution.max_memory={max_memory}: one row of {T} tokens needs {needed:.3f} GiB; allowed is at "
                    "least that, or shorter rows (model.max_length)")  # fmt: skip


@dataclass(frozen=True)
class _Cut:
    sizes: Sizes
    saved: float
    """Bytes that autograd keeps of one block for one shadow token."""
    recompute: bool
    limit: int | None
    groups: int
    enough: float
    """Bytes of activations beyond which a larger pass does not pay."""

    @property
    def logits_rows(self) -> int:
        """Rows of logits at once: 64 MiB of them and what they turn into, less under a tight limit; 16 at least."""
        left = math.inf if self.limit is None else (self.limit - self.sizes.weights) / 8
        return int(max(16, min(4096, min(64 * 2**20, left) // self._logits_row())))

    def _logits_row(self) -> int:
        """Logits and their gradient in the model's type, probabilities and slope in float32 or 64."""
        return self.sizes.vocabulary * 2 * (self.sizes.element + precise(self.sizes.dtype).itemsize)

    def logits(self) -> int:
        return self.logits_rows * self._logits_row()

    def clean(self, rows: int, T: int, N: int) -> int:
        """β and inputs at shadow positions, keys and values at all, and the clean pass's own transient."""
        s, L = self.sizes, self.sizes.parts.n_layers
        kept = L * (2 * N * s.parts.d_model + 2 * T * s.key_width) * s.element
        return rows * (kept + 2 * T * s.parts.d_model * s.element)

    def sums(self, rows: int, N: int) -> int:
        s, L = self.sizes, self.sizes.parts.n_layers
        return self.groups * L * s.parts.d_model * 8 + L * rows * N * s.parts.d_model * precise(s.dtype).itemsize

    def fixed(self, rows: int, T: int, N: int) -> int:
        return self.sizes.weights + self.clean(rows, T, N) + self.sums(rows, N) + self.logits()

    def fits(self, rows: int, T: int, N: int) -> bool:
        """Whether so many rows leave room for one stream through all layers, and are not needlessly many."""
        one = self.least(rows * N)
        return one <= self.left(rows, T, N) and (rows == 1 or one <= max(self.enough, self.least(ENOUGH_TOKENS)))

    def left(self, rows: int, T: int, N: int) -> float:
        return math.inf if self.limit is None else self.limit - self.fixed(rows, T, N)

    def budget(self, rows: int, T: int, N: int) -> float:
        """Bytes for the streams: what the limit leaves, but no more than pays off."""
        return min(self.left(rows, T, N), max(self.enough, self.least(max(ENOUGH_TOKENS, rows * N))))

    @property
    def working(self) -> float:
        """Bytes a token of the block that runs: while backward, about what it kept; recomputed, that as well."""
        return (2.0 if self.recompute else 1.0) * self.saved

    def stream(self, tokens: int, blocks: int) -> float:
        """Bytes of one stream of `tokens` shadow positions through `blocks` blocks, forward and backward."""
        s = self.sizes
        ends = 4 * tokens * s.parts.d_model * s.element  # leaf, its gradient, the last output and its gradient
        working = self.working  # of the block at hand
        if self.recompute:
            return ends + tokens * (blocks * s.parts.d_model * s.element + working)
        return ends + tokens * (blocks * self.saved + working)

    def least(self, tokens: int) -> float:
        return self.stream(tokens, self.sizes.parts.n_layers)

    def units(self, tokens: int, points: int, shared: bool, together: bool, budget: float) -> list[Unit]:
        """Consecutive layers at as many points as fit together; the shared end of the path first."""
        L, made = self.sizes.parts.n_layers, []
        if shared:
            made.append(Unit(tuple(range(L)), None))
        if not points:
            return made
        if together:
            fit = max(1, min(points, int(budget // self.least(tokens))))
            return [Unit(tuple(range(L)), tuple(range(p, min(points, p + fit)))) for p in range(0, points, fit)]
        layer = 0
        while layer < L:
            one = self.stream(tokens, L - layer)
            fit = max(1, min(points, int(budget // one)))
            if fit < points:
                made += [Unit((layer,), tuple(range(p, min(points, p + fit)))) for p in range(0, points, fit)]
                layer += 1
                continue
            last, held = layer, 0.0
            while last < L and held + points * self.stream(tokens, L - last) <= budget:
                held += points * self.stream(tokens, L - last)
                last += 1
            made.append(Unit(tuple(range(layer, last)), tuple(range(points))))
            layer = last
        return made


def _made(
    cut: _Cut, shapes: Sequence[tuple[int, int, int, int]], rows: int, points: int, shared: bool, together: bool,
    T: int, N: int,
) -> Plan:  # fmt: skip
    s, L = cut.sizes, cut.sizes.parts.n_layers
    block = s.attention_weights + s.mlp_weights
    pieces, clean, streams, tail, peak = [], 0.0, 0.0, 0.0, 0.0
    for index, (b, t, n, _) in enumerate(shapes):
        if not n:
            continue
        clean += b * t * L * (2 * block + 4 * s.query_width * t)
        attention = 4 * s.query_width * (t + n)
        for start in range(0, b, rows):
            size = min(rows, b - start)
            units = cut.units(size * n, points, shared, together, cut.budget(size, t, n))
            pieces.append(Piece(index, slice(start, start + size), tuple(units), size * n))
            for unit in units:
                copies = 1 if unit.points is None or together else len(unit.layers)
                per_point = 1 if unit.points is None else len(unit.points)
                whole = 2 * 2 * block + 3 * attention + (2 * block + attention if cut.recompute else 0)
                passed = [L] if copies == 1 and len(unit.layers) == L else [L - 1 - layer for layer in unit.layers]
                entered = 0 if unit.points is None else len(unit.layers) if not together else 0
                tokens = size * n * per_point
                streams += tokens * (sum(passed) * whole + entered * (2 * s.attention_weights + attention))
                tail += tokens * copies * 4 * s.parts.d_model * s.vocabulary
                blocks = [L] if copies == 1 and len(unit.layers) == L else [L - layer for layer in unit.layers]
                peak = max(peak, sum(per_point * cut.stream(size * n, x) for x in blocks))
    stages = (
        Stage("weights", s.weights, 0.0),
        Stage("clean pass (β, keys, values)", cut.clean(rows, T, N), clean),
        Stage("shadow streams", int(peak), streams),
        Stage("head and loss", cut.logits(), tail),
        Stage("sums", cut.sums(rows, N), 0.0),
    )
    total = sum(shape[3] for shape in shapes)
    return Plan(stages, tuple(pieces), cut.recompute, cut.logits_rows, cut.limit, total, s.parts.n_neurons)


def _halvings(n: int) -> list[int]:
    made = [n]
    while made[-1] > 1:
        made.append((made[-1] + 1) // 2)
    return made


def _meta_twin(model: nn.Module) -> nn.Module:
    """The same architecture and type without weights, and with a rotary embedding that looks at no values."""
    hf: Any = model
    config = copy.deepcopy(hf.config)
    plain = _plain_rotation(config.get_text_config())
    if plain and next(model.parameters()).device.type == "meta":
        return model
    with torch.device("meta"):
        twin: Any = type(model)(config)
    return twin.to(hf.dtype)


def _plain_rotation(config: Any) -> bool:
    """Turn length-dependent rotary embeddings of `config` into plain ones (same sizes); whether there were none."""
    given = getattr(config, "rope_parameters", None) or {}
    varying = [r for r in (given, *given.values()) if isinstance(r, dict) and r.get("rope_type") in LENGTH_DEPENDENT]
    for rope in varying:
        kept = {k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}
        rope.clear()
        rope.update(kept, rope_type="default")
    return not varying


def saved_bytes(twin: nn.Module, T: int, N: int) -> int:
    """Bytes that autograd keeps of one block for one stream of N shadow positions in a row of T tokens, beyond weights.

    Measured, not guessed: a block of the meta twin runs forward and what it saves is added up.
    """
    weights = {id(p) for p in twin.parameters()}
    held: dict[int, int] = {}
    keep: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        base = x if x._base is None else x._base
        if id(base) not in weights and id(base) not in held:
            keep.append(base)
            held[id(base)] = base.untyped_storage().nbytes()
        return x

    meta = torch.device("meta")
    where = Layout(
        torch.zeros(1, N, dtype=torch.long, device=meta),
        torch.ones(1, N, dtype=torch.bool, device=meta),
        torch.zeros(1, N, dtype=torch.long, device=meta),
        torch.ones(1, N, dtype=torch.bool, device=meta),
        torch.ones(1, N, T, dtype=torch.bool, device=meta),
        torch.ones(1, N, N, dtype=torch.bool, device=meta),
    )
    with undisturbed(twin):
        engine = Engine(twin)
        state = engine.clean({"input_ids": torch.zeros(1, T, dtype=torch.long, device=meta)}, where)
        layer = min(1, engine.parts.n_layers - 1)
        leaf = torch.zeros_like(state.inputs[layer]).requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            engine._block(layer, leaf, None, None)
    return sum(held.values())
