"""Sampling by temperature and top-p: many samples of a prompt share its keys and values.

The random number behind a token is a function of seed, row, sample and position alone, so a text does not depend on
which rows share a batch, or on their order (but where rounding moves a cumulative probability past it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from simu.data.encoding import text_of
from simu.inference.generate import Generation, eos_ids
from simu.inference.modes import evaluating
from simu.inference.slots import Slots, context_limit, trial
from simu.progress import track
from simu.types import UserError, require


@dataclass(kw_only=True)
class Draw:
    """One sample on its way."""

    row: int
    sample: int
    prompt: Sequence[int]
    budget: int
    uniform: Tensor
    """float64 [budget]: what decides each token."""
    ids: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def done(self) -> bool:
        return self.finished or len(self.ids) == self.budget

    def take(self, token: int, eos: frozenset[int]) -> None:
        if token in eos:
            self.finished = True
        else:
            self.ids.append(token)


@torch.no_grad()
def sample(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    samples: int,
    max_new_tokens: int,
    max_batch_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    names: Sequence[str] | None = None,
    what: str = "sample",
) -> list[list[Generation]]:
    """`samples` continuations of every prompt (token ids), in the order of `prompts`.

    Distribution: softmax(logits / temperature) cut to the smallest set of tokens with a mass of `top_p` and more, as
    transformers' TopPLogitsWarper cuts it; temperature 0 is the greedy token.
    names: of the rows, by which their random numbers go (default: their places).
    max_batch_tokens: rows × (prompt + new tokens) of the key–value cache.

    Raises UserError for an empty or too long prompt, and for a model whose cache cannot be shared (with the reason).
    """
    require(samples >= 1, "samples", samples, "≥ 1")
    require(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "≥ 1")
    require(temperature >= 0, "temperature", temperature, "≥ 0")
    require(0 < top_p <= 1, "top_p", top_p, "0 < x ≤ 1")
    limit = context_limit(model)
    for i, prompt in enumerate(prompts):
        if not prompt or (limit is not None and len(prompt) > limit):
            raise UserError(f"prompt {i}: {len(prompt)} tokens, allowed is 1 to {limit or 'any number'}")
    waiting = []
    for i in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
        budget = max_new_tokens if limit is None else min(max_new_tokens, limit + 1 - len(prompts[i]))
        for j in range(samples):
            uniform = uniforms(budget, seed, str(i) if names is None else names[i], j)
            waiting.append(Draw(row=i, sample=j, prompt=prompts[i], budget=budget, uniform=uniform))
    with evaluating(model):
        reason, _ = trial(model)
        if reason is not None:
            raise UserError(f"sampling: {reason}")
        ended = _run(model, waiting, eos_ids(model, tokenizer), max_batch_tokens, temperature, top_p, what)
    found: list[list[Generation]] = [[] for _ in prompts]
    for draw in sorted(ended, key=lambda draw: (draw.row, draw.sample)):
        text = text_of(tokenizer, draw.ids)
        found[draw.row].append(Generation(ids=tuple(draw.ids), text=text, finished=draw.finished))
    return found


def uniforms(count: int, seed: int, name: str, number: int) -> Tensor:
    """float64 [count] in [0, 1): the same for the same arguments, on any device and in any order."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{number}".encode()).digest()
    source = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=source, dtype=torch.float64)


def probabilities(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """float64 [R, V] of logits [R, V]: tempered, cut to the nucleus, summing to 1. `temperature` above 0."""
    found = (logits if temperature == 1 else logits / temperature).softmax(-1, dtype=torch.float64)
    if top_p < 1:
        ordered, order = found.sort(dim=-1)
        dropped = ordered.cumsum(-1) <= 1 - top_p
        dropped[:, -1] = False
        found = found.masked_fill_(dropped.scatter(-1, order, dropped), 0.0)
        found /= found.sum(-1, keepdim=True)
    return found


def pick(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> list[int]:
    """The token of each row of logits [R, V] at which its cumulative probability passes `uniform` [R]."""
    if temperature == 0:
        return list(map(int, logits.argmax(-1)))
    cumulative = probabilities(logits, temperature, top_p).cumsum(-1)
    at = torch.searchsorted(cumulative, uniform[:, None].to(cumulative.device) * cumulative[:, -1:], right=True)
    return list(map(int, at.clamp(max=logits.shape[-1] - 1)[:, 0]))


def _run(
    model: nn.Module,
    waiting: list[Draw],
    eos: frozenset[int],
    max_batch_tokens: int,
    temperature: float,
    top_p: float,
    what: str,
) -> list[Draw]:
    """Bring every draw to its end; longest prompts first, in a cache of as many rows as the budget allows."""
    if not waiting:
        return []
    need = len(waiting[0].prompt) + max(draw.budget for draw in waiting)
    held = min(len(waiting), max(1, max_batch_tokens // need))
    slots, active, ended = Slots(model, held, need + 1), list[Draw](), list[Draw]()
    bar = iter(track(range(len(waiting)), what, total=len(waiting), unit="sample"))
    at = 0
    while at < len(waiting) or active:
        free = held - len(active)
        if at < len(waiting) and (free >= max(1, held // 4) or not active):
            entering = waiting[at : at + free]
            at += len(entering)
            logits, entering = _enter(slots, len(active), entering)
            first, active = len(active), [*active, *entering]
        else:
            first, entering = 0, active
            logits = slots.step(0, [[draw.ids[-1]] for draw in active], [1] * len(active))
        uniform = torch.stack([draw.uniform[len(draw.ids)] for draw in entering])
        for draw, token in zip(entering, pick(logits, uniform, temperature, top_p), strict=True):
            draw.take(token, eos)
        for place in range(len(active) - 1, first - 1, -1):
            if active[place].done:
                ended.append(active[place])
                next(bar, None)
                slots.drop(place, len(active) - 1)
                active[place] = active[-1]
                active.pop()
    next(bar, None)
    return ended


def _enter(slots: Slots, first: int, draws: Sequence[Draw]) -> tuple[Tensor, list[Draw]]:
    """Put draws into the cache from row `first` on: each prompt is read once, its keys and values copied to its other
    samples. Logits [R, V] behind the prompts, and the draws in the order of their rows."""
    of: dict[int, list[Draw]] = {}
    for draw in draws:
        of.setdefault(draw.row, []).append(draw)
    heads = [some[0] for some in of.values()]
    logits = slots.step(first, [list(draw.prompt) for draw in heads], [1] * len(heads))
    ordered, source = list(heads), list(range(len(heads)))
    for place, some in enumerate(of.values()):
        for draw in some[1:]:
            row = first + len(ordered)
            slots.cache.move(first + place, row, len(draw.prompt))
            slots.lengths[row] = len(draw.prompt)
            ordered.append(draw)
            source.append(place)
    return logits[source], ordered
