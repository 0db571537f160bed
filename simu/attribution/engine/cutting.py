"""Cutting the work of an attribution into micro-batches and passes that fit in memory, and what each costs.

Shapes: T tokens and N shadow positions of a micro-batch's longest rows, L layers, D d_model, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from simu.attribution.engine.capture import precise
from simu.models.anatomy import Anatomy, anatomy
from simu.types import NeuronUnit

ENOUGH = {"cuda": 16 * 2**30, "cpu": 48 * 2**20}
"""Bytes of activations in one pass beyond which a larger pass is not faster (docs/attribution.md)…"""
ENOUGH_TOKENS = 256
"""… unless it holds fewer shadow positions than this."""
MICRO_BATCH_OVERHEAD = {"cuda": 256, "cpu": 16}
"""What a micro-batch costs by itself, in shadow positions: more padding than this is worth another micro-batch."""
LOGITS = {"cuda": 64 * 2**20, "cpu": 32 * 2**20}
"""Bytes of logits and what they turn into at once…"""
LOGITS_ROWS = 128
"""… unless they are fewer rows than this."""


@dataclass(frozen=True)
class Pass:
    """One pass, forward and backward: the streams of these layers at these path points. `points` None: the clean end,
    a = β, which all layers share."""

    layers: tuple[int, ...]
    points: tuple[int, ...] | None

    def begins(self, m: int) -> bool:
        """Whether it holds the first of m path points: then it also finds what its layers' scores should add up to."""
        return 0 in ((m - 1,) if self.points is None else self.points)


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a batch that run together, and their passes in order."""

    batch: int
    rows: tuple[int, ...]
    tokens: int
    """T: of the longest row."""
    positions: int
    """N: shadow positions of the row that has most."""
    passes: tuple[Pass, ...] = ()

    @property
    def shadow(self) -> int:
        return len(self.rows) * self.positions


@dataclass(frozen=True)
class Sizes:
    """What bytes and FLOPs depend on in a model."""

    parts: Anatomy
    dtype: torch.dtype
    weights: int
    """Bytes."""
    attention: int
    """Weights of one layer's attention projections."""
    mlp: int
    """Weights of one layer's other matrices."""
    query_width: int
    """Heads · head size."""
    key_width: int
    """Key-value heads · head size."""
    vocabulary: int
    saved: float
    """Bytes that autograd keeps of one block for one shadow position."""
    unit: NeuronUnit

    @classmethod
    def of(cls, model: nn.Module, saved: float, unit: NeuronUnit) -> Sizes:
        hf: Any = model
        parts, config = anatomy(model), hf.config.get_text_config()
        projections: list[Any] = [module for _, module in parts.attention[0]]
        attention = sum(module.weight.numel() for module in projections)
        matrices = sum(p.numel() for p in parts.blocks[0].parameters() if p.dim() == 2)
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or parts.d_model // heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        weights = {id(p): p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers())}
        return cls(
            parts,
            hf.dtype,
            sum(weights.values()),
            attention,
            matrices - attention,
            heads * size,
            keys * size,
            int(config.vocab_size),
            saved,
            unit,
        )

    @property
    def n_neurons(self) -> int:
        return math.prod(self.parts.shape(self.unit))

    @property
    def hidden(self) -> int:
        """Hidden neurons of a layer where they are the units, else 0: what they cost beyond rows."""
        return self.parts.units("hidden") if self.unit == "hidden" else 0


@dataclass(frozen=True)
class Cut:
    """One way to cut: with or without recomputation, within a limit."""

    sizes: Sizes
    m: int
    shared: bool
    """The last path point is the clean end, one pass for all layers."""
    together: bool
    """All layers' vectors at once: one stream."""
    recompute: bool
    limit: int | None
    """Bytes for everything."""
    device: str
    """cpu, cuda …: how large a pass pays off."""
    groups: int

    # ---- bytes

    @property
    def logits_rows(self) -> int:
        """Rows of logits at once; under a tight limit fewer, down to 16."""
        rows = max(LOGITS_ROWS, LOGITS.get(self.device, LOGITS["cpu"]) // self._logits_row())
        left = math.inf if self.limit is None else (self.limit - self.sizes.weights) / 8
        return int(max(16, min(4096, rows, left // self._logits_row())))

    def _logits_row(self) -> int:
        """Logits and their gradient in the model's type, probabilities and slope in float32 or 64."""
        return self.sizes.vocabulary * 2 * (self.sizes.dtype.itemsize + precise(self.sizes.dtype).itemsize)

    def logits(self) -> int:
        return self.logits_rows * self._logits_row()

    def clean(self, micro: MicroBatch) -> int:
        """β, inputs and attention at shadow positions (h, too, for hidden neurons), keys and values at all, and the
        clean pass's own transient."""
        s, L = self.sizes, self.sizes.parts.n_layers
        kept = L * (micro.positions * (3 * s.parts.d_model + s.hidden) + 2 * micro.tokens * s.key_width)
        return len(micro.rows) * (kept + 2 * micro.tokens * s.parts.d_model) * s.dtype.itemsize

    def sums(self, micro: MicroBatch) -> int:
        """Sums of all groups, and the samples' own scores until a micro-batch is through; for hidden neurons also what
        one layer's are made of: the gradient at them, and the down-projection in float32."""
        s, size = self.sizes, precise(self.sizes.dtype).itemsize
        widened = s.parts.d_model * s.hidden if s.dtype.itemsize < size else 0
        return s.n_neurons * (8 * self.groups + micro.shadow * size) + (3 * micro.shadow * s.hidden + widened) * size

    def fixed(self, micro: MicroBatch) -> int:
        return self.sizes.weights + self.clean(micro) + self.sums(micro) + self.logits()

    def stream(self, shadow: int, blocks: int) -> float:
        """Of one stream of `shadow` positions through `blocks` blocks, forward and backward."""
        s = self.sizes
        row = s.parts.d_model * s.dtype.itemsize
        ends = 4 * row  # leaf, its gradient, the last output and its gradient
        if self.recompute:  # the blocks' inputs; the block at hand twice: kept again, and backward
            return shadow * (ends + blocks * row + 2 * s.saved)
        return shadow * (ends + blocks * s.saved + s.saved)

    def least(self, shadow: int) -> float:
        return self.stream(shadow, self.sizes.parts.n_layers)

    def held(self, micro: MicroBatch, one: Pass) -> float:
        """Of one pass."""
        L, points = self.sizes.parts.n_layers, 1 if one.points is None else len(one.points)
        blocks = [L] if self._whole(one) else [L - layer for layer in one.layers]
        return sum(points * self.stream(micro.shadow, n) for n in blocks)

    def _whole(self, one: Pass) -> bool:
        """Whether one stream carries all layers."""
        return one.points is None or self.together

    # ---- FLOPs, two a multiply-add

    def flops(self, micro: MicroBatch) -> tuple[float, float, float]:
        """(clean pass, shadow streams, head and loss) of all passes of a micro-batch. Backward: inputs only."""
        s, L = self.sizes, self.sizes.parts.n_layers
        linear, attention = 2 * (s.attention + s.mlp), 4 * s.query_width * (micro.tokens + micro.positions)
        block = 2 * linear + 3 * attention + (linear + attention if self.recompute else 0)
        clean = len(micro.rows) * micro.tokens * L * (linear + 4 * s.query_width * micro.tokens)
        streams = tail = 0.0
        for one in micro.passes:
            streams += micro.shadow * len(one.layers) * 2 * s.parts.d_model * s.hidden  # gradients at hidden neurons
            shadow = micro.shadow * (1 if one.points is None else len(one.points))
            if self._whole(one):
                streams += shadow * (L if one.points is None else L - 1) * block
            else:
                streams += shadow * sum((L - 1 - layer) * block for layer in one.layers)
            head = 2 * s.parts.d_model * s.vocabulary
            tail += shadow * (1 if self._whole(one) else len(one.layers)) * 2 * head
            if one.begins(self.m):  # L(β) and L(0): forwards only
                ends = one.layers[:1] if self.together else one.layers
                streams += micro.shadow * sum(L - 1 - layer for layer in ends) * (linear + attention)
                tail += micro.shadow * (1 + len(ends)) * head
        return clean, streams, tail

    # ---- cutting

    def micro_batches(self, batch: int, rows: Sequence[tuple[int, int, int]]) -> list[MicroBatch] | None:
        """Rows (T, N, …) of a batch in micro-batches, with the least padding that pays off; None: one is too large."""
        order = [i for i in sorted(range(len(rows)), key=lambda i: (-rows[i][1], -rows[i][0], i)) if rows[i][1]]
        overhead = MICRO_BATCH_OVERHEAD.get(self.device, MICRO_BATCH_OVERHEAD["cpu"])
        best: list[tuple[float, tuple[MicroBatch, ...]]] = [(0.0, ())]  # of the first rows: cost in shadow positions
        for end in range(1, len(order) + 1):
            options = []
            for start in range(end - 1, -1, -1):
                chosen = order[start:end]
                micro = MicroBatch(batch, tuple(chosen), max(rows[i][0] for i in chosen), rows[chosen[0]][1])
                if not self._fits(micro) or (len(chosen) > 1 and self.least(micro.shadow) > self._worthwhile(0)):
                    break
                options.append((best[start][0] + micro.shadow + overhead, (*best[start][1], micro)))
            if not options:
                return None
            best.append(min(options, key=lambda option: option[0]))
        return [replace(micro, passes=self._passes(micro)) for micro in best[-1][1]]

    def _left(self, micro: MicroBatch) -> float:
        return math.inf if self.limit is None else self.limit - self.fixed(micro)

    def _fits(self, micro: MicroBatch) -> bool:
        """Whether one stream through all layers has room."""
        return self.least(micro.shadow) <= self._left(micro)

    def _worthwhile(self, shadow: int) -> float:
        return max(ENOUGH.get(self.device, ENOUGH["cpu"]), self.least(max(ENOUGH_TOKENS, shadow)))

    def _passes(self, micro: MicroBatch) -> tuple[Pass, ...]:
        """The shared end of the path, then consecutive layers at as many points as fit together."""
        L = self.sizes.parts.n_layers
        budget = min(self._left(micro), self._worthwhile(micro.shadow))
        made = [Pass(tuple(range(L)), None)] if self.shared else []
        points = tuple(range(self.m - 1 if self.shared else self.m))
        layer = 0
        while points and layer < L:
            layers = tuple(range(L)) if self.together else (layer,)
            fit = max(1, min(len(points), int(budget // self.stream(micro.shadow, L - layer))))
            while fit == len(points) and not self.together and layers[-1] + 1 < L:
                more = Pass((*layers, layers[-1] + 1), points)
                if self.held(micro, more) > budget:
                    break
                layers = more.layers
            made += [Pass(layers, points[p : p + fit]) for p in range(0, len(points), fit)]
            layer = layers[-1] + 1
        return tuple(made)
