"""The alternatives stage: other answers that the target itself would give to the questions to forget (AltPO)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from simu.data.batching import encode_examples
from simu.data.refusals import refusals
from simu.inference import departures
from simu.slots import Objective, OwnAlternatives
from simu.stages.artifact import Artifact, Context, Setup
from simu.store.cache import CHECKPOINT
from simu.store.files import read_json_lines, write_json_lines
from simu.types import Example

log = logging.getLogger("simu")

NAME, TOGETHER = "alternatives", False
FILE = "alternatives.jsonl"
MAX_BATCH_TOKENS = 16384
"""As evaluators have it; greedy texts are the same for any."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    target: Artifact
    rows: tuple[Example, ...]
    count: int
    max_new_tokens: int
    setup: Setup
    seed: int
    """Of the refusal that stands in where a row has no other answer."""


def wanted(objective: Objective, taught: Artifact, rows: tuple[Example, ...], setup: Setup, seed: int) -> Inputs | None:
    """The inputs where the forget loss reads the target's own alternatives; else None."""
    loss = objective.forget
    if not isinstance(loss, OwnAlternatives):
        return None
    more = {"count": loss.alternatives, "max_new_tokens": loss.max_new_tokens, "seed": seed}
    return Inputs(target=taught, rows=rows, setup=setup, **more)


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """folder/alternatives.jsonl, a line a row: id and its `count` alternatives. Killed, it goes on where it was."""
    model, tokenizer = inputs.target.load()
    setup = inputs.setup
    found = departures.alternatives(
        model,
        tokenizer,
        encode_examples(tokenizer, setup.template, inputs.rows, setup.max_length),
        count=inputs.count,
        max_new_tokens=inputs.max_new_tokens,
        max_batch_tokens=MAX_BATCH_TOKENS,
        checkpoint=folder / CHECKPOINT,
    )
    if lacking := sum(not texts for texts in found):
        log.warning("%d of %d rows have no other answer; they are answered with a refusal", lacking, len(found))
    instead = refusals(inputs.rows, inputs.seed)
    lines = [
        {"id": row.id, "alternatives": filled(texts or [refusal.answer], inputs.count)}
        for row, texts, refusal in zip(inputs.rows, found, instead, strict=True)
    ]
    write_json_lines(folder / FILE, lines)


def filled(texts: list[str], count: int) -> list[str]:
    """`count` of them, from the first again where there are fewer."""
    return [texts[i % len(texts)] for i in range(count)]


def load(inputs: Inputs, folder: Path, context: Context) -> tuple[Example, ...]:
    """The rows with their first alternative as the answer, then all with their second …: count × rows of them."""
    lines = read_json_lines(folder / FILE)
    return tuple(
        replace(row, answer=line["alternatives"][k])
        for k in range(inputs.count)
        for row, line in zip(inputs.rows, lines, strict=True)
    )
