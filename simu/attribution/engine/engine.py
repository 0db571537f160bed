"""The exact position-parallel engine (docs/attribution.md; arXiv 2510.07822, Eq. 1-2).

Interventions at different positions of one sequence do not see each other: the query at a predicting position attends
to the *clean* keys before it and to its own. So the clean sequence runs once; then, for each layer, one "shadow" stream
that holds the predicting positions only runs through the layers above, with clean keys and values beside its own. The
gradient with respect to the injected vectors is then every sample's own gradient, however many samples a row has.

Nothing here knows an architecture. The blocks, the tail (final norm, head, soft-capping) and the attention masks are
the model's own: blocks are called with the arguments that the model itself gave them, at the positions kept.

Shapes: B rows, T tokens, N shadow positions (padded), R = streams · path points · B, D d_model, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.cache_utils import Cache

from simu.attribution.engine.attention import LONGEST, to_clean
from simu.models.anatomy import Anatomy, anatomy
from simu.types import IGNORE, UserError

Objective = Literal["log_prob", "nll", "prob"]
Position = Literal["next_token", "sequence"]
GATHERED = ("position_ids", "position_embeddings", "cache_position")  # arguments of a block that run over positions
LENGTH_DEPENDENT = ("dynamic", "longrope")  # rotary embeddings that change with the row's length
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter gradients, an attention that takes a mask; everything as it was afterwards."""
    hf: Any = model
    training = [(m, m.training) for m in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    attention = hf.config._attn_implementation
    model.eval()
    for p, _ in wanted:
        p.requires_grad_(False)
    if attention not in ("eager", "sdpa"):
        hf.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    try:
        yield
    finally:
        if attention != hf.config._attn_implementation:
            hf.set_attn_implementation(attention)
        for p, flag in wanted:
            p.requires_grad_(flag)
        for m, flag in training:
            m.training = flag


@dataclass(frozen=True)
class Layout:
    """Which positions the shadow streams hold, and what each may see before the model's own mask."""

    positions: Tensor
    """LongTensor [B, N], ascending; 0 where padded."""
    valid: Tensor
    """bool [B, N]: not padding."""
    scored: Tensor
    """bool [B, N]: a token is predicted here and counts."""
    target: Tensor
    """LongTensor [B, N]: that token."""
    inject: Tensor
    """bool [B, N]: the vector is replaced here (padding included, where it changes nothing)."""
    clean_keys: Tensor
    """bool [B, N, T]: the clean keys a shadow query may attend to."""
    own_keys: Tensor
    """bool [B, N, N]: the shadow keys it may attend to."""
    alone: bool
    """Of the shadow keys each query sees its own only."""


def layout(labels: Tensor, attention_mask: Tensor, position: Position) -> Layout:
    """Shadow positions of a right-padded batch: LongTensors [B, T].

    `next_token`: the predicting positions only; each sees clean keys strictly before it and its own shadow key.
    `sequence`: every position from the first predicting one to the last, causal among themselves (one teacher-forced
    pass whose vectors are scaled at all predicting positions).
    """
    B, T = labels.shape
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = (labels[:, 1:] != IGNORE) & attention_mask[:, 1:].bool()
    time = torch.arange(T, device=labels.device)
    if position == "next_token":
        kept = predicts
    else:
        started = predicts.cumsum(1) > 0
        unfinished = predicts.flip(1).cumsum(1).flip(1) > 0
        kept = started & unfinished
    n = kept.sum(1)
    N = int(n.max()) if B else 0
    order = torch.sort((~kept).long() * T + time, dim=1).values[:, :N]
    valid = order < T
    positions = torch.where(valid, order, 0)
    scored = valid & predicts.gather(1, positions)
    target = labels.roll(-1, 1).gather(1, positions).masked_fill(~scored, 0)
    eye = torch.eye(N, dtype=torch.bool, device=labels.device).expand(B, N, N)
    before = time < positions[:, :, None]
    if position == "next_token":
        return Layout(positions, valid, scored, target, torch.ones_like(valid), before & valid[:, :, None], eye, True)
    first = positions[:, :1, None]
    earlier = (positions[:, None, :] <= positions[:, :, None]) & valid[:, None, :] & valid[:, :, None]
    return Layout(positions, valid, scored, target, scored | ~valid, before & (time < first), earlier | eye, False)


@dataclass
class Clean:
    """What one clean pass leaves behind, at the shadow positions (keys and values: at all)."""

    inputs: list[Tensor] = field(default_factory=list)
    """L × [B, N, D]: what each block read."""
    beta: list[Tensor] = field(default_factory=list)
    """L × [B, N, D]: what each down-projection gave (β)."""
    keys: list[Tensor] = field(default_factory=list)
    """L × [B, heads, T, head size], whole: no sliding window crops them, the mask does."""
    values: list[Tensor] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    """L × the arguments of the block, by name, without the hidden states."""
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    """[B, N, D]: what the last block gave."""
    attended: list[Tensor | None] = field(default_factory=list)
    """L × [B, N, D]: what its attention module gave; None where that is not one tensor of this shape."""
    final: list[bool] = field(default_factory=list)
    """L × whether the MLP's output is the down-projection's, so that a replaced one need not be computed."""


class ShadowCache:
    """Stands in for the key-value cache of one block call: clean keys beside the shadow's own; stores nothing.

    With `apart` it gives the shadow's own alone, for an attention that knows the clean ones (attention.py).
    """

    def __init__(self, keys: Tensor, values: Tensor, apart: bool):
        self.keys, self.values, self.apart, self.asked = keys, values, apart, False

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.asked = True
        if self.apart:
            return keys, values
        return self._beside(self.keys, keys), self._beside(self.values, values)

    @staticmethod
    def _beside(clean: Tensor, own: Tensor) -> Tensor:
        streams = own.shape[0] // clean.shape[0]
        whole = own.unflatten(0, (streams, clean.shape[0]))
        return torch.cat([clean.expand(streams, *clean.shape), whole], dim=-2).flatten(0, 1)


class Engine:
    """One model, taken apart once; `clean` then `gradients` for each micro-batch. Use inside `undisturbed`."""

    def __init__(self, model: nn.Module, *, recompute: bool = False, logits_rows: int = 1024):
        self.model: Any = model
        self.name = type(model).__name__
        self.parts: Anatomy = anatomy(model)
        self.recompute = recompute
        self.logits_rows = logits_rows
        self.mlps = [
            model.get_submodule(name.rpartition(".")[0]) if ".mlp." in name else None for name in self.parts.down_names
        ]
        self.attentions = [model.get_submodule(layer[0][0].rpartition(".")[0]) for layer in self.parts.attention]
        self.hidden_name = [next(iter(inspect.signature(b.forward).parameters)) for b in self.parts.blocks]
        self.masks: dict[tuple[int, int], Tensor] = {}

    # ------------------------------------------------------------------ clean pass

    def clean(self, batch: Mapping[str, Tensor], where: Layout) -> Clean:
        """Run the rows once and keep what the shadow streams need. Raises UserError where a block is not understood."""
        self._require_fixed_rotation(batch["input_ids"].shape[1])
        self.where, self.state, self.masks = where, Clean(), {}
        self.everywhere = where.inject.device.type == "meta" or bool(where.inject.all())
        index = where.positions[:, :, None].expand(-1, -1, self.parts.d_model)
        state, handles = self.state, []

        def before(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = self._named(block, args, kwargs)
            state.inputs.append(call.pop(self.hidden_name[len(state.inputs)]).gather(1, index))
            state.calls.append(call)

        def down(_: nn.Module, __: tuple[Any, ...], out: Tensor) -> None:
            self.seen = out  # held until the MLP has returned, so that its memory cannot be another tensor's
            state.beta.append(out.view(*batch["input_ids"].shape, -1).gather(1, index))

        def mlp(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
            state.final[len(state.beta) - 1] = isinstance(out, Tensor) and _same(out, self.seen)

        def attention(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
            plain = isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], Tensor) and out[0].dim() == 3
            state.attended.append(out[0].gather(1, index) if plain else None)

        def last(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
            if not isinstance(out, Tensor):
                raise UserError(f"{self.name}: a decoder layer returns a {type(out).__name__}; allowed is one tensor")
            state.output = out.gather(1, index)

        state.final = [False] * self.parts.n_layers
        for block in self.parts.blocks:
            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        for module in self.parts.down_projections:
            handles.append(module.register_forward_hook(down))
        handles += [module.register_forward_hook(attention) for module in self.attentions]
        handles += [module.register_forward_hook(mlp) for module in self.mlps if module is not None]
        handles.append(self.parts.blocks[-1].register_forward_hook(last))
        ids = batch["input_ids"]
        # Right padding is never seen by a causal row, so none is declared: masked-out rows would only risk NaN.
        # (On the meta device a mask cannot be looked into: one of four dimensions is taken as it is.)
        B, T = ids.shape
        everything = torch.ones_like(ids)
        if ids.device.type == "meta":
            everything = torch.ones(B, 1, T, T, dtype=torch.bool, device=ids.device)
        cache: Any = DynamicCache()  # built without the config: full layers, never cropped to a window
        try:
            with torch.no_grad():
                at = torch.arange(T, device=ids.device)[None]
                self.model(
                    input_ids=ids,
                    attention_mask=everything,
                    position_ids=at,
                    cache=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
        finally:
            for handle in handles:
                handle.remove()
        state.keys = [layer.keys for layer in cache.layers]
        state.values = [layer.values for layer in cache.layers]
        if not len(state.keys) == len(state.beta) == len(state.inputs) == self.parts.n_layers:
            raise UserError(
                f"{self.name}: {len(state.inputs)} layers ran, {len(state.beta)} down-projections and "
                f"{len(state.keys)} caches were seen; allowed is one each a layer"
            )
        self.apart = where.alone and self._attends_apart(T)
        return state

    def _attends_apart(self, T: int) -> bool:
        """Whether attention is what SDPA computes (no soft-capping, no biases) and small enough for probabilities to
        be kept. In bfloat16 the fused kernel is more precise."""
        masks = [call.get("attention_mask") for call in self.state.calls]
        return (
            self.model.config._attn_implementation == "sdpa"
            and T <= LONGEST
            and self.state.output.dtype in (torch.float32, torch.float64)
            and all(mask is None or mask.dtype == torch.bool for mask in masks)
        )

    def _require_fixed_rotation(self, T: int) -> None:
        """A rotary embedding that depends on the row's length gives a prefix other keys than the whole row."""
        config = self.model.config.get_text_config()
        given = getattr(config, "rope_parameters", None) or {}
        kinds = [v for v in given.values() if isinstance(v, dict)] or [given]
        for rope in kinds:
            kind = rope.get("rope_type")
            limit = (
                rope.get("original_max_position_embeddings")
                or getattr(config, "original_max_position_embeddings", None)
                or config.max_position_embeddings
            )
            if kind in LENGTH_DEPENDENT and limit < T:
                raise UserError(
                    f"{self.name}: its rotary embedding ({kind}) changes with the row's length beyond "
                    f"{limit} tokens, so a row of {T} has no clean prefix; allowed are rows up to {limit} "
                    "(model.max_length)"
                )

    @staticmethod
    def _named(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = inspect.signature(block.forward).bind(*args, **kwargs)
        named = dict(bound.arguments)
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named |= named.pop(name, {})
        return named

    # ------------------------------------------------------------------ shadow streams

    def gradients(
        self, layers: Sequence[int], fractions: Sequence[float], objective: Objective, together: bool = False
    ) -> list[Tensor]:
        """∂/∂a of Σ_i L_i(a) summed over the path points, for each of `layers` (ascending): [B, N, D] each.

        Each layer has its own stream and only the layers above it run; streams share every block call. With `together`
        (all layers' vectors scaled at once) `layers` must be all layers, and there is one stream.
        """
        hidden: Tensor | None = None
        leaves: list[Tensor] = []
        points = torch.tensor(fractions, dtype=precise(self.state.beta[0].dtype), device=self.state.output.device)
        for layer in range(layers[0], self.parts.n_layers):
            a = None
            if layer in layers:
                beta = self.state.beta[layer]
                a = (points[:, None, None, None] * beta.to(points)).to(beta.dtype).flatten(0, 1)
                if not self.everywhere:
                    whole = beta.expand(len(fractions), *beta.shape).flatten(0, 1)
                    a = torch.where(self._streams(self.where.inject, len(a)), a, whole)
                leaves.append(a.requires_grad_())
                if hidden is None or not together:
                    entering = self.state.inputs[layer]
                    entering = entering.expand(len(fractions), *entering.shape).flatten(0, 1)
                    hidden = entering if hidden is None else torch.cat([hidden, entering])
            assert hidden is not None
            fresh = len(a) if a is not None and (layer == layers[0] or not together) else 0
            hidden = self._through(layer, hidden, a, None, fresh)
        assert hidden is not None
        grads = self._backward(hidden, leaves, objective)
        return [g.unflatten(0, (len(fractions), -1)).sum(0, dtype=precise(g.dtype)) for g in grads]

    def gradients_at_clean(self, objective: Objective) -> list[Tensor]:
        """The same at the end of the path, where a = β: there the intervened state is the clean one whatever the layer,
        so one stream through all layers gives every layer's gradient: L × [B, N, D].

        Doubles as the check that the model can be treated exactly: the stream must give the clean pass's own output.
        """
        hidden, leaves = self.state.inputs[0], []
        for layer in range(self.parts.n_layers):
            leaves.append(torch.zeros_like(self.state.beta[layer]).requires_grad_())
            hidden = self._through(layer, hidden, None, leaves[-1])
        self._check(hidden)
        return [g.to(precise(g.dtype)) for g in self._backward(hidden, leaves, objective)]

    def check(self) -> None:
        """Raise UserError unless the blocks, re-run on the kept positions, reproduce the model's own output."""
        with torch.no_grad():
            hidden = self.state.inputs[0]
            for layer in range(self.parts.n_layers):
                hidden = self._through(layer, hidden, None, None)
        self._check(hidden)

    def _check(self, hidden: Tensor) -> None:
        if hidden.device.type == "meta":
            return
        rows = self.where.scored
        clean, again = self.state.output[rows].detach().double(), hidden[rows].detach().double()
        error = float((again - clean).norm() / clean.norm().clamp_min(1e-30))
        if not error <= TOLERANCE.get(hidden.dtype, 0.1):
            raise UserError(
                f"{self.name} cannot be treated exactly: its blocks, re-run on the predicting positions "
                f"alone, differ from its own forward pass by {error:.1e} (relative)"
            )

    def _streams(self, x: Tensor, rows: int) -> Tensor:
        """[B, N] → [rows, N, 1], repeated over streams."""
        return x.repeat(rows // len(x), 1)[:, :, None]

    def _through(self, layer: int, hidden: Tensor, a: Tensor | None, offset: Tensor | None, fresh: int = 0) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(
                self._block, layer, hidden, a, offset, fresh, use_reentrant=False, preserve_rng_state=False
            )
        return self._block(layer, hidden, a, offset, fresh)

    def _block(self, layer: int, hidden: Tensor, a: Tensor | None, offset: Tensor | None, fresh: int = 0) -> Tensor:
        """Block `layer` on [R, N, D], its down-projection's output replaced by `a` in the last rows, or + `offset`.

        The last `fresh` rows hold the clean input, so their attention has nothing to compute either.
        """
        keys, values = self.state.keys[layer], self.state.values[layer]
        cache = ShadowCache(keys, values, self.apart)
        call = {self.hidden_name[layer]: hidden} | self._arguments(layer, len(hidden), cache)
        with ExitStack() as stack:
            if self.apart:
                stack.enter_context(to_clean(self.attentions[layer], keys, values))
            stack.enter_context(self._injection(layer, hidden, a, offset))
            stack.enter_context(self._attended(layer, len(hidden), fresh))
            out = self.parts.blocks[layer](**call)
        if not cache.asked and fresh < len(hidden):
            raise UserError(
                f"{self.name}: layer {layer} never asked the key-value cache, so its attention cannot be "
                "given clean keys; allowed are decoders that use transformers' cache"
            )
        return out

    def _arguments(self, layer: int, rows: int, cache: ShadowCache) -> dict[str, Any]:
        """The model's own arguments of this block, at the shadow positions."""
        given: dict[str, Any] = self.state.calls[layer]
        made: dict[str, Any] = {}
        for name, value in given.items():
            if isinstance(value, Cache):
                made[name] = cache
            elif name == "attention_mask":
                made[name] = self._mask(value, rows)
            elif name in GATHERED:
                made[name] = self._at_positions(value, rows)
            elif name == "use_cache":
                made[name] = False
            elif _holds_tensor(value):
                raise UserError(
                    f"{self.name}: layer {layer} takes a tensor {name!r} that cannot be restricted to the "
                    "predicting positions; allowed are masks and positions"
                )
            else:
                made[name] = value
        made.setdefault("attention_mask", self._mask(None, rows))
        return made

    def _at_positions(self, value: Any, rows: int) -> Any:
        """[1 or B, T, …] → [rows, N, …], also inside tuples."""
        if isinstance(value, tuple | list):
            return tuple(self._at_positions(v, rows) for v in value)
        if not isinstance(value, Tensor):
            return value
        key = (id(value), rows)
        if key not in self.masks and rows > len(self.where.positions):
            kept = self._at_positions(value, len(self.where.positions))
            self.masks[key] = kept.repeat(rows // len(kept), *[1] * (kept.dim() - 1))
        elif key not in self.masks:
            at = self.where.positions
            if value.dim() == 1:
                value = value[None]
            whole = value.expand(len(at), *value.shape[1:])
            index = at.reshape(*at.shape, *[1] * (value.dim() - 2)).expand(*at.shape, *value.shape[2:])
            self.masks[key] = whole.gather(1, index)
        return self.masks[key]

    def _mask(self, model_mask: Tensor | None, rows: int) -> Tensor:
        """The model's own [1 or B, heads or 1, T, T] mask (None: causal) turned into [rows, heads or 1, N, T + N], or
        [B, heads or 1, N, T] where attention knows that own keys are seen.

        Windows, padding and additive biases come along by value. Raises UserError unless it is causal.
        """
        if self.apart:
            rows = len(self.where.positions)
        key = (id(model_mask), rows)
        if key in self.masks:
            return self.masks[key]
        where, at = self.where, self.where.positions
        B, N, T = where.clean_keys.shape
        if model_mask is None:
            full = torch.ones(1, 1, T, T, dtype=torch.bool, device=at.device).tril()
        elif model_mask.dim() == 4 and model_mask.shape[-2:] == (T, T):
            full = model_mask
        else:
            raise UserError(
                f"{self.name}: its attention mask has shape {tuple(model_mask.shape)}; allowed is [B, heads, {T}, {T}]"
            )
        low = torch.finfo(self.state.beta[0].dtype).min
        self._require_causal(full if full.dtype == torch.bool else full > low / 2)
        heads = full.shape[1]
        query = full.expand(B, heads, T, T).gather(2, at[:, None, :, None].expand(B, heads, N, T))
        own = query.gather(3, at[:, None, None, :].expand(B, heads, N, N))
        both, seen = torch.cat([query, own], dim=-1), torch.cat([where.clean_keys, where.own_keys], dim=-1)[:, None]
        if both.dtype == torch.bool:  # additive, once: SDPA would turn it into that at every call
            seen, both = seen & both, torch.zeros_like(both, dtype=self.state.beta[0].dtype)
        both = both.masked_fill(~seen, low)
        self.masks[key] = both[..., :T].contiguous() if self.apart else both.repeat(rows // B, 1, 1, 1)
        return self.masks[key]

    def _require_causal(self, allowed: Tensor) -> None:
        if allowed.device.type != "meta" and bool(torch.triu(allowed, diagonal=1).any()):
            raise UserError(
                f"{self.name}: its attention looks ahead (a bidirectional mask); allowed are causal decoders"
            )

    @contextmanager
    def _injection(self, layer: int, hidden: Tensor, a: Tensor | None, offset: Tensor | None) -> Iterator[None]:
        """While open, the down-projection of `layer` gives `a` in the last len(a) rows (or its output + `offset`)."""
        R, N, _ = hidden.shape
        mlp, final = self.mlps[layer], self.state.final[layer]

        def replace(out: Tensor) -> Tensor:
            if a is None:
                return out if offset is None else out + offset.view(out.shape)
            kept = out.view(R, N, -1)
            new = a
            if not self.everywhere and len(a) == R:  # all layers at once: elsewhere as computed
                new = torch.where(self._streams(self.where.inject, R), a, kept)
            return torch.cat([kept[: R - len(a)], new]).view(out.shape)

        if a is not None and final and mlp is not None and self.everywhere:
            rest, original = R - len(a), mlp.forward
            with _acting_as(mlp, lambda x: torch.cat([original(x[:rest]), a]) if rest else a):
                yield
            return
        handle = self.parts.down_projections[layer].register_forward_hook(lambda _, __, out: replace(out))
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _attended(self, layer: int, rows: int, fresh: int) -> Iterator[None]:
        """While open, attention gives the clean pass's output in the last `fresh` rows without computing it."""
        clean, module = self.state.attended[layer], self.attentions[layer]
        if not fresh or clean is None:
            yield
            return
        known, original = clean.repeat(fresh // len(clean), 1, 1), module.forward

        def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
            if fresh == rows:
                return known, None
            out, weights = original(*_first(args, rows, fresh), **_first(kwargs, rows, fresh))
            return torch.cat([out, known]), weights

        with _acting_as(module, forward):
            yield

    # ------------------------------------------------------------------ tail and loss

    def _backward(self, hidden: Tensor, leaves: list[Tensor], objective: Objective) -> tuple[Tensor, ...]:
        """Gradients of Σ_i L_i over all streams with respect to `leaves`."""
        streams = len(hidden) // len(self.where.scored)
        scored = self.where.scored.repeat(streams, 1)
        target = self.where.target.repeat(streams, 1)[scored]
        seed = torch.zeros_like(hidden)
        seed[scored] = self._tail_gradient(hidden.detach()[scored], target, objective)
        return torch.autograd.grad(hidden, leaves, grad_outputs=seed)

    def _tail_gradient(self, rows: Tensor, target: Tensor, objective: Objective) -> Tensor:
        """∂L/∂(last block's output) for rows [n, D], in chunks, so that [n, V] logits never exist at once."""
        made = []
        for part, wanted in zip(rows.split(self.logits_rows), target.split(self.logits_rows), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                logits = self.tail(leaf)
            with torch.no_grad():
                p = torch.softmax(logits.to(precise(logits.dtype)), dim=-1)
                weight = p.gather(1, wanted[:, None]) if objective == "prob" else None  # d P = P · d log P
                slope = p.scatter_add_(1, wanted[:, None], torch.full_like(p[:, :1], -1.0))  # -d log P: p - onehot(y)
                slope = slope if weight is None else slope.mul_(weight)
            down = torch.autograd.grad(logits, leaf, grad_outputs=slope.to(logits.dtype))[0]
            made.append(down if objective == "nll" else -down)
        return torch.cat(made) if made else rows

    def tail(self, rows: Tensor) -> Tensor:
        """Logits [n, V] from the last block's output [n, D], by the model's own final norm, head and soft-capping.

        The model runs on n one-token rows with its blocks stepped over, so nothing in its tail has to be known.
        """

        def skip(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
            return rows[:, None, :]

        with ExitStack() as stack:
            for block in self.parts.blocks:
                stack.enter_context(_acting_as(block, skip))
            ids = torch.zeros(len(rows), 1, dtype=torch.long, device=rows.device)
            seen = torch.ones(len(rows), 1, 1, 1, dtype=torch.bool, device=rows.device)  # of four dimensions: not read
            return self.model(input_ids=ids, attention_mask=seen, position_ids=ids[:1], use_cache=False).logits.flatten(
                0, 1
            )


@contextmanager
def _acting_as(module: nn.Module, forward: Any) -> Iterator[None]:
    """While open, `module` computes `forward`."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _first(value: Any, rows: int, without: int) -> Any:
    """Every tensor of [rows, …] in an argument, without its last rows."""
    if isinstance(value, Tensor):
        return value[: rows - without] if value.dim() and len(value) == rows else value
    if isinstance(value, tuple | list):
        return tuple(_first(v, rows, without) for v in value)
    if isinstance(value, dict):
        return {k: _first(v, rows, without) for k, v in value.items()}
    return value


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are taken in: float64 stays, anything smaller becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _same(x: Tensor, y: Tensor) -> bool:
    return x.device.type == "meta" or (x.data_ptr() == y.data_ptr() and x.numel() == y.numel())


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, Tensor)
