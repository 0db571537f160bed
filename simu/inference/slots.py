"""A key–value cache in which rows of different lengths share a forward: token p of a row lives in slot p.

A rejected draft needs no clean-up: its slots lie behind the row's length, where no query looks, and are written over.
A finished row costs one copy: the last row moves into its place. Works with any decoder that takes `cache=`, explicit
`position_ids` and a 4-D mask; `trial` says why a model is not one. Sliding windows keep all their keys
here, and the window is in the mask.

Shapes: R rows of the cache, S slots, B rows of a step, W input tokens of each, N positions wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig

from simu.inference.modes import device_of
from simu.models.forward import Labelled, head_sees

WINDOWS = {"full_attention", "sliding_attention"}
ATTENTION = {"sdpa": torch.bool, "eager": None}
"""Implementations that take a 4-D mask, and its dtype: bool says where to look, a float one (None: the model's) is
added to the attention logits."""


class SlotCache(Cache):
    """Keys and values [R, heads, S, head_dim] of each layer, written where `aim` says."""

    def __init__(self, rows: int, slots: int):
        super().__init__(layers=[])
        self.rows, self.slots = rows, slots
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def aim(self, first: int, lengths: Tensor, width: int, span: int) -> None:
        """The next forward gives `width` tokens to rows first … first + B, behind the `lengths` [B] they have; no
        query looks past `span` slots."""
        self.first, self.count, self.span = first, len(lengths), span
        self.row = torch.arange(first, first + self.count, device=lengths.device).unsqueeze(1)
        self.slot = lengths.unsqueeze(1) + torch.arange(width, device=lengths.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if layer_idx == len(self.keys):  # zeros: an unwritten slot has weight 0, and 0 · nan would be nan
            for held, new in ((self.keys, key_states), (self.values, value_states)):
                held.append(new.new_zeros(self.rows, new.shape[1], self.slots, new.shape[3]))
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        keys[self.row, :, self.slot] = key_states.transpose(1, 2)
        values[self.row, :, self.slot] = value_states.transpose(1, 2)
        rows = slice(self.first, self.first + self.count)
        return keys[rows, :, : self.span], values[rows, :, : self.span]

    def move(self, source: int, target: int, length: int) -> None:
        """Row `target` becomes a copy of the first `length` slots of row `source`."""
        for held in (*self.keys, *self.values):
            held[target, :, :length] = held[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.slots if self.keys else 0  # positions are always given; this only says "not empty"


class Slots:
    """A model over a SlotCache of `rows` × `slots`: `step` is its one operation."""

    def __init__(self, model: nn.Module, rows: int, slots: int):
        self.model, self.cache = model, SlotCache(rows, slots)
        self.config = text_config(model)
        self.device = device_of(model)
        self.last_position = (context_limit(model) or slots) - 1
        self.lengths = [0] * rows
        """Tokens that each row of the cache holds."""

    def step(self, first: int, tokens: Sequence[Sequence[int]], wanted: Sequence[int]) -> Tensor:
        """Give each row from `first` on its own tokens; logits [Σ wanted, V] of each row's last `wanted` ones.

        Rows with fewer tokens than the longest get padding behind them, which the cache forgets. `lengths` grows
        by all tokens given: to reject a draft's end, lower it.
        """
        rows = range(first, first + len(tokens))
        width = max(len(t) for t in tokens)
        past = torch.tensor([self.lengths[r] for r in rows], device=self.device)
        span = min(self.cache.slots, max(self.lengths[r] for r in rows) + width)
        # padding repeats a token that the row has: weight 0 × what it gives must be finite
        ids = torch.tensor([[*t, *[t[-1]] * (width - len(t))] for t in tokens], device=self.device)
        self.cache.aim(first, past, width, span)
        row = torch.tensor([b for b, n in enumerate(wanted) for _ in range(n)], device=self.device)
        at = torch.tensor(
            [len(t) - n + j for t, n in zip(tokens, wanted, strict=True) for j in range(n)], device=self.device
        )
        with head_sees(self.model.get_output_embeddings(), Labelled(row, at, at)):  # type: ignore[operator]
            output = self.model(
                input_ids=ids,
                attention_mask=self._mask(span),
                position_ids=self.cache.slot.clamp(max=self.last_position),
                cache=self.cache,
                use_cache=True,
            )
        for r, t in zip(rows, tokens, strict=True):
            self.lengths[r] += len(t)
        return output.logits.squeeze(0)

    def drop(self, row: int, last: int) -> None:
        """Forget `row`: row `last` of those in use takes its place."""
        if row != last:
            self.cache.move(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths[last] = 0

    def _mask(self, span: int) -> Tensor | dict[str, Tensor]:
        """Masks [B, 1, W, span]: slots up to the query's own, within the window where the layer has one."""
        distance = self.cache.slot.unsqueeze(-1) - torch.arange(span, device=self.device)
        seen = (distance >= 0).unsqueeze(1)
        kinds, window = attention_kinds(self.config)
        masks = {"full_attention": seen}
        if window is not None:
            masks["sliding_attention"] = seen & (distance < window).unsqueeze(1)
        dtype = ATTENTION[self.config._attn_implementation]
        if dtype is None:
            masks = {k: _additive(m, next(self.model.parameters()).dtype) for k, m in masks.items()}
        return masks if len(kinds) > 1 else masks[next(iter(kinds))]


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def text_config(model: nn.Module) -> PreTrainedConfig:
    config: PreTrainedConfig = model.config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    return config


def context_limit(model: nn.Module) -> int | None:
    """Tokens that the model can read; None where its config does not say."""
    limit = getattr(text_config(model), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def attention_kinds(config: PreTrainedConfig) -> tuple[set[str], int | None]:
    """The kinds of attention layers and the window of the sliding ones, as transformers' own DynamicCache reads them
    from a config."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:
        kinds = {"full_attention"} if window is None else {"sliding_attention"}
    return kinds, window


def moving_positions(config: PreTrainedConfig) -> bool:
    """Whether a token's rotary angle depends on how long the whole batch is (dynamic NTK, LongRoPE)."""
    found = getattr(config, "rope_parameters", None) or {}
    nested = [v for v in found.values() if isinstance(v, dict)] or [found]
    return any("dynamic" in str(p.get("rope_type")) or p.get("rope_type") == "longrope" for p in nested)


@torch.no_grad()
def trial(model: nn.Module) -> tuple[str | None, float]:
    """Whether `Slots` reproduces this model, tried on two short rows.

    Gives why it does not, or None, and how far its logits were from those of plain forwards, relative to the largest
    (0 where nothing was tried): the rounding of this model's depth and width.
    """
    config = text_config(model)
    kinds, _ = attention_kinds(config)
    if not kinds <= WINDOWS:
        return f"layers of kind {', '.join(sorted(kinds - WINDOWS))}", 0.0
    if config._attn_implementation not in ATTENTION:
        return f"attention implementation {config._attn_implementation!r} (sdpa and eager take the mask needed)", 0.0
    if moving_positions(config):
        return "rotary angles that change with the length of the batch", 0.0
    try:
        off = _probe(model, config.vocab_size)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
        return f"a trial step failed ({type(error).__name__}: {str(error).partition(chr(10))[0]})", 0.0
    allowed = 1e-3 if torch.finfo(next(model.parameters()).dtype).eps < 1e-5 else 0.1
    return (None, off) if off <= allowed else (f"a trial step was off by {off:.1e} of the largest logit", 0.0)


def _probe(model: nn.Module, vocabulary: int) -> float:
    """Largest difference, relative to the largest logit, between plain forwards of two rows and the same rows in
    pieces of unequal length with a rejected draft between them."""
    a, b = ([(7 * i + s) % (vocabulary - 1) + 1 for i in range(n)] for s, n in ((3, 9), (5, 6)))
    plain = [model(input_ids=torch.tensor([r], device=device_of(model))).logits[0, -1] for r in (a, b)]
    slots = Slots(model, rows=2, slots=12)
    slots.step(0, [a[:5], b[:3]], [1, 1])
    pieces = [slots.step(0, [a[5:], [b[3], a[0], a[1]]], [1, 1])[0]]
    slots.lengths[1] = 4
    pieces.append(slots.step(1, [b[4:]], [1])[0])
    return max(_difference(p, q) for p, q in zip(plain, pieces, strict=True))


def _difference(one: Tensor, other: Tensor) -> float:
    """Relative to the largest; a model that has diverged to NaN agrees with itself."""
    if bool(one.isnan().all() and other.isnan().all()):
        return 0.0
    off = float((one - other).abs().max() / one.abs().max().clamp(min=1e-6))
    return off if off == off else float("inf")
