"""Greedy generation, exactly and fast. docs/evaluation_engine.md explains it and gives measurements.

1. Verify: one teacher-forced pass over prompt + reference, in length-sorted batches. An answer that the model still
   knows by heart is done after it; any other has its longest matching prefix.
2. Decode: the rest shares a slot cache (slots.py); finished rows leave it and waiting rows take their places, and each
   step verifies what n-gram lookup guesses (drafts.py).
3. Re-verify: where the best token led by less than rounding may move, the row is decoded again one token at a time by
   transformers itself (plain.py), as far as the last such token. So the text is that of `model.generate` at batch 1.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from simu.data.encoding import text_of
from simu.inference.decoding import Engine, Work
from simu.inference.drafts import Row
from simu.inference.finished import FinishedBatches
from simu.inference.modes import evaluating
from simu.inference.plain import in_float32
from simu.inference.slots import context_limit
from simu.progress import track
from simu.store.files import digest
from simu.types import UserError, require

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The answer to one prompt."""

    ids: tuple[int, ...]
    """New token ids, without the EOS that ended them."""
    text: str
    """Decoded without special tokens."""
    finished: bool
    """Whether EOS came within the allowed number of tokens."""
    truncated: bool = False
    """Stopped early because it can no longer equal its reference: good for exact match, not for ROUGE."""


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    references: Sequence[Sequence[int]] | None = None,
    max_batch_tokens: int,
    strict: bool = False,
    stop_when_wrong: bool | Sequence[bool] = False,
    checkpoint: Path | None = None,
    what: str = "generate",
    work: Work | None = None,
) -> list[Generation]:
    """Greedy continuations of every prompt (token ids), in the order of `prompts`.

    The text is what transformers' `generate` gives for each row alone, in float32 and float64; in half precision, near
    ties fall as the shape of a batch has it (`strict` for those). EOS is the tokenizer's and the generation config's. A
    row ends early where the model's context ends (`max_position_embeddings` tokens read).

    references: token ids of the expected answers (with or without EOS), drafts only: they change speed, never output.
    stop_when_wrong: for all rows or one bool a row; ends a row once its text can no longer equal its reference up to
        case and white space, and marks it truncated.
    max_batch_tokens: rows × longest of a forward, and rows × (prompt + new tokens) of the key–value cache.
    strict: one row at a time by transformers, half-precision weights held in float32 meanwhile, no drafts.
    checkpoint: folder of finished batches, one JSON Lines file each; the same call on the same model goes on there.
    work: filled with counts.

    Raises UserError for an empty prompt or one longer than the model's context.
    """
    require(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "≥ 1")
    require(max_batch_tokens >= 1, "max_batch_tokens", max_batch_tokens, "≥ 1")
    eos = eos_ids(model, tokenizer)
    rows = _rows(model, prompts, references, max_new_tokens, eos)
    flags = [stop_when_wrong] * len(rows) if isinstance(stop_when_wrong, bool) else list(stop_when_wrong)
    if len(flags) != len(rows) or (any(flags) and references is None):
        raise UserError("stop_when_wrong: needs references, and one bool for all rows or one for each")
    targets = {r.index: text_of(tokenizer, r.reference) for r in rows if flags[r.index]}
    references = [r.reference for r in rows]
    asked = [list(map(list, prompts)), references, max_new_tokens, max_batch_tokens, flags, strict, sorted(eos)]
    engine = Engine(
        model=model,
        tokenizer=tokenizer,
        eos=eos,
        targets={} if strict else targets,
        max_batch_tokens=max_batch_tokens,
        strict=strict,
        finished=FinishedBatches(checkpoint and checkpoint / digest(asked)),
        work=work or Work(),
    )
    with evaluating(model), in_float32(model) if strict else nullcontext():
        for _ in track(engine.run(rows), what, total=len(rows), unit="row"):
            pass
    engine.work.decisions = sum(r.decisions for r in rows)
    log.info("  %s: %d rows; %s", what, len(rows), engine.work)
    return [
        Generation(ids=tuple(r.ids), text=engine.decode(r), finished=r.finished, truncated=r.truncated) for r in rows
    ]


def eos_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's EOS and those of the model's generation config."""
    config = getattr(model, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return frozenset(int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None)


def _rows(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]] | None,
    max_new_tokens: int,
    eos: frozenset[int],
) -> list[Row]:
    if references is not None and len(references) != len(prompts):
        raise UserError(f"references: {len(references)} of them for {len(prompts)} prompts, allowed is one for each")
    limit = context_limit(model)
    rows = []
    for i, prompt in enumerate(prompts):
        if not prompt or (limit is not None and len(prompt) > limit):
            raise UserError(f"prompt {i}: {len(prompt)} tokens, allowed is 1 to {limit or 'any number'}")
        budget = max_new_tokens if limit is None else min(max_new_tokens, limit + 1 - len(prompt))
        reference = list(references[i]) if references is not None else []
        if reference and reference[-1] in eos:
            reference.pop()
        rows.append(Row(index=i, prompt=list(prompt), reference=reference, budget=budget))
    return rows
