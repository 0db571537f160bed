"""The clean run of a micro-batch: which positions the shadow streams hold, and what the model computed there.

Shapes: B rows, T tokens, N shadow positions (padded), L layers, D d_model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from simu.attribution.engine.attention import LONGEST
from simu.models.anatomy import Anatomy, anatomy
from simu.types import IGNORE, NeuronUnit, UserError

Position = Literal["next_token", "sequence"]
LENGTH_DEPENDENT = ("dynamic", "longrope")  # rotary embeddings that change with the row's length


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are taken in: float64 stays, anything smaller becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter gradients, an attention that takes a mask; everything as it was afterwards."""
    hf: Any = model
    training = [(m, m.training) for m in model.modules()]
    trainable = [(p, p.requires_grad) for p in model.parameters()]
    attention = hf.config._attn_implementation
    model.eval()
    for p, _ in trainable:
        p.requires_grad_(False)
    if attention not in ("eager", "sdpa"):
        hf.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    try:
        yield
    finally:
        if attention != hf.config._attn_implementation:
            hf.set_attn_implementation(attention)
        for p, flag in trainable:
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


@dataclass(frozen=True)
class Dissected:
    """A model and the modules that the engine takes hold of, layer by layer."""

    model: Any
    name: str
    """Of its class, for messages."""
    parts: Anatomy
    mlps: tuple[nn.Module | None, ...]
    """The down-projection's parent; None where that is the block itself (OPT)."""
    attentions: tuple[nn.Module, ...]
    hidden_names: tuple[str, ...]
    """What each block calls its hidden states."""

    @classmethod
    def of(cls, model: nn.Module) -> Dissected:
        parts = anatomy(model)
        parents = [name.rpartition(".")[0] if ".mlp." in name else None for name in parts.down_names]
        return cls(
            model=model,
            name=type(model).__name__,
            parts=parts,
            mlps=tuple(None if name is None else model.get_submodule(name) for name in parents),
            attentions=tuple(model.get_submodule(layer[0][0].rpartition(".")[0]) for layer in parts.attention),
            hidden_names=tuple(next(iter(inspect.signature(b.forward).parameters)) for b in parts.blocks),
        )


@dataclass
class Clean:
    """What one clean pass leaves behind, at the shadow positions (keys and values: at all)."""

    where: Layout
    everywhere: bool
    """The vector is replaced at all shadow positions."""
    inputs: list[Tensor] = field(default_factory=list)
    """L × [B, N, D]: what each block read."""
    unit: NeuronUnit = "row"
    beta: list[Tensor] = field(default_factory=list)
    """L × [B, N, D]: what each down-projection gave (β)."""
    read: list[Tensor] = field(default_factory=list)
    """L × [B, N, F]: what each down-projection read (h); kept where neurons are hidden ones."""
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
    apart: bool = False
    """Shadow queries attend to clean keys and their own by attention.py."""
    restricted: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """What mask.py has made of the blocks' arguments so far."""


def capture(subject: Dissected, batch: Mapping[str, Tensor], where: Layout, unit: NeuronUnit = "row") -> Clean:
    """Run the rows once and keep what the shadow streams need. Raises UserError where a block is not understood.

    batch: LongTensor [B, T] input_ids, right-padded.
    """
    ids = batch["input_ids"]
    _require_fixed_rotation(subject, ids.shape[1])
    everywhere = where.inject.device.type == "meta" or bool(where.inject.all())
    empty = Clean(where, everywhere, unit=unit, final=[False] * subject.parts.n_layers)
    recorder = _Recorder(subject, empty, ids.shape)
    cache: Any = DynamicCache()  # built without the config: full layers, never cropped to a window
    with recorder.listening(), torch.no_grad():
        _run(subject, ids, cache)
    clean = recorder.clean
    clean.keys = [layer.keys for layer in cache.layers]
    clean.values = [layer.values for layer in cache.layers]
    if not len(clean.keys) == len(clean.beta) == len(clean.inputs) == subject.parts.n_layers:
        raise UserError(
            f"{subject.name}: {len(clean.inputs)} layers ran, {len(clean.beta)} down-projections and "
            f"{len(clean.keys)} caches were seen; allowed is one each a layer"
        )
    clean.apart = where.alone and _attends_apart(subject, clean, ids.shape[1])
    return clean


def _run(subject: Dissected, ids: Tensor, cache: Any) -> None:
    """The model on whole rows.

    Right padding is never seen by a causal row, so none is declared: masked-out rows would only risk NaN. (On the meta
    device a mask cannot be looked into: one of four dimensions is taken as it is.)
    """
    B, T = ids.shape
    everything = torch.ones_like(ids)
    if ids.device.type == "meta":
        everything = torch.ones(B, 1, T, T, dtype=torch.bool, device=ids.device)
    subject.model(
        input_ids=ids,
        attention_mask=everything,
        position_ids=torch.arange(T, device=ids.device)[None],
        cache=cache,
        use_cache=True,
        logits_to_keep=1,
    )


class _Recorder:
    """The hooks of one clean pass, which fill a `Clean`."""

    def __init__(self, subject: Dissected, clean: Clean, shape: torch.Size):
        self.subject, self.clean, self.shape = subject, clean, shape
        self.index = clean.where.positions[:, :, None].expand(-1, -1, subject.parts.d_model)
        self.down_output: Tensor | None = None
        """Held until the MLP has returned, so that its memory cannot be another tensor's."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        parts = self.subject.parts
        with ExitStack() as stack:
            handles = [block.register_forward_pre_hook(self._block_begins, with_kwargs=True) for block in parts.blocks]
            handles += [module.register_forward_hook(self._down) for module in parts.down_projections]
            handles += [module.register_forward_hook(self._attention) for module in self.subject.attentions]
            handles += [module.register_forward_hook(self._mlp) for module in self.subject.mlps if module is not None]
            handles.append(parts.blocks[-1].register_forward_hook(self._last_block))
            for handle in handles:
                stack.callback(handle.remove)
            yield

    def _block_begins(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = _by_name(block, args, kwargs)
        hidden = call.pop(self.subject.hidden_names[len(self.clean.inputs)])
        self.clean.inputs.append(hidden.gather(1, self.index))
        self.clean.calls.append(call)

    def _down(self, _: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        self.down_output = out
        self.clean.beta.append(out.view(*self.shape, -1).gather(1, self.index))
        if self.clean.unit == "hidden":
            read = args[0].reshape(*self.shape, -1)
            self.clean.read.append(read.gather(1, self.index[:, :, :1].expand(-1, -1, read.shape[-1])))

    def _mlp(self, _: nn.Module, __: tuple[Any, ...], out: Any) -> None:
        same = isinstance(out, Tensor) and self.down_output is not None and _same(out, self.down_output)
        self.clean.final[len(self.clean.beta) - 1] = same

    def _attention(self, _: nn.Module, __: tuple[Any, ...], out: Any) -> None:
        plain = isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], Tensor) and out[0].dim() == 3
        self.clean.attended.append(out[0].gather(1, self.index) if plain else None)

    def _last_block(self, _: nn.Module, __: tuple[Any, ...], out: Any) -> None:
        if not isinstance(out, Tensor):
            raise UserError(
                f"{self.subject.name}: a decoder layer returns a {type(out).__name__}; allowed is one tensor"
            )
        self.clean.output = out.gather(1, self.index)


def _by_name(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(block.forward).bind(*args, **kwargs)
    named = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named |= named.pop(name, {})
    return named


def _same(x: Tensor, y: Tensor) -> bool:
    return x.device.type == "meta" or (x.data_ptr() == y.data_ptr() and x.numel() == y.numel())


def _attends_apart(subject: Dissected, clean: Clean, T: int) -> bool:
    """Whether attention is what SDPA computes (no soft-capping, no biases) and small enough for probabilities to be
    kept. In bfloat16 the fused kernel is more precise."""
    masks = [call.get("attention_mask") for call in clean.calls]
    return (
        subject.model.config._attn_implementation == "sdpa"
        and T <= LONGEST
        and clean.output.dtype in (torch.float32, torch.float64)
        and all(mask is None or mask.dtype == torch.bool for mask in masks)
    )


def _require_fixed_rotation(subject: Dissected, T: int) -> None:
    """A rotary embedding that depends on the row's length gives a prefix other keys than the whole row."""
    config = subject.model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [v for v in parameters.values() if isinstance(v, dict)] or [parameters]
    for rope in kinds:
        kind = rope.get("rope_type")
        limit = (
            rope.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or config.max_position_embeddings
        )
        if kind in LENGTH_DEPENDENT and limit < T:
            raise UserError(
                f"{subject.name}: its rotary embedding ({kind}) changes with the row's length beyond "
                f"{limit} tokens, so a row of {T} has no clean prefix; allowed are rows up to {limit} "
                "(model.max_length)"
            )
