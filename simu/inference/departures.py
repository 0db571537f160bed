"""Other answers that a model itself would give: it is led off the known answer by one token and goes on greedily.

A model that knows an answer by heart gives it again when asked again, greedily or sampled at temperature 1. So the
answer is left at the places where the model most nearly said something else, and the engine completes each, exactly.

Shapes: n labelled tokens of a row, V vocabulary, c departures a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from simu.data.batching import Encoded, collate, length_buckets
from simu.data.encoding import text_of
from simu.inference.generate import eos_ids, generate
from simu.inference.modes import device_of, evaluating, pad_id
from simu.models.forward import labelled_logits, wide


@dataclass(frozen=True)
class Departure:
    """One token other than the answer's."""

    position: int
    """Of `answer`, from 0: answer[:position] is kept."""
    token: int


def ranked(log_p: Tensor, answer: Sequence[int], count: int) -> list[Departure]:
    """The `count` departures of an answer whose tokens are predicted by log_p [n, V], in which no token that is not
    wanted is finite: first each position's likeliest, the likeliest of these first; then each position's second …

    `answer`: the n tokens. Fewer than `count` where there are not so many.
    """
    own = torch.tensor(answer, device=log_p.device)[:, None]
    best = log_p.scatter(1, own, -torch.inf).topk(min(count, log_p.shape[1]), dim=1)
    values, tokens = best.values.tolist(), best.indices.tolist()
    found = [
        (rank, -value, i, token)
        for i in range(len(answer))
        for rank, (value, token) in enumerate(zip(values[i], tokens[i], strict=True))
        if value > -torch.inf
    ]
    return [Departure(position, token) for _, _, position, token in sorted(found)[:count]]


@torch.no_grad()
def departures(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Encoded], count: int, max_batch_tokens: int
) -> list[list[Departure]]:
    """`ranked` of each row, into no control token and not from EOS: an answer that goes on is no other answer."""
    found: list[list[Departure]] = [[] for _ in rows]
    ends = eos_ids(model, tokenizer)
    banned = torch.tensor(sorted({*ends, *tokenizer.all_special_ids}))
    with evaluating(model):
        for chosen in length_buckets([len(row) for row in rows], max_batch_tokens):
            batch = collate([rows[i] for i in chosen], pad_id(tokenizer), device_of(model))
            logits, where = labelled_logits(model, batch)
            for i, own in zip(chosen, where.by_row(logits, len(chosen)), strict=True):
                found[i] = of_row(wide(own).log_softmax(-1), rows[i], ends, banned, count)
    return found


def of_row(log_p: Tensor, row: Encoded, ends: frozenset[int], banned: Tensor, count: int) -> list[Departure]:
    first = len(row.answer) - len(log_p)  # a row without prompt has no prediction of its first token
    answer = row.answer[first:]
    if answer and answer[-1] in ends:
        answer = answer[:-1]
    allowed = log_p[: len(answer)].index_fill(1, banned.to(log_p.device), -torch.inf)
    return [Departure(d.position + first, d.token) for d in ranked(allowed, answer, count)] if answer else []


def alternatives(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Encoded],
    *,
    count: int,
    max_new_tokens: int,
    max_batch_tokens: int,
    checkpoint: Path | None = None,
) -> list[list[str]]:
    """Of each row up to `count` texts, each unlike the others and the answer: its departures, completed greedily with
    `max_new_tokens` tokens at most. Fewer, or none, where the row has no more.

    checkpoint: as of `simu.inference.generate.generate`, which goes on there after a kill.
    """
    found = departures(model, tokenizer, rows, count, max_batch_tokens)
    asked = [(row, d) for row, own in zip(rows, found, strict=True) for d in own]
    if not asked:
        return [[] for _ in rows]
    made = generate(
        model,
        tokenizer,
        [[*row.prompt, *row.answer[: d.position], d.token] for row, d in asked],
        max_new_tokens=max_new_tokens,
        references=[list(row.answer[d.position + 1 :]) for row, d in asked],
        max_batch_tokens=max_batch_tokens,
        checkpoint=checkpoint,
        what="alternatives",
    )
    texts = iter(
        text_of(tokenizer, [*row.answer[: d.position], d.token, *new.ids]).strip()
        for (row, d), new in zip(asked, made, strict=True)
    )
    answers = [text_of(tokenizer, row.answer).strip() for row in rows]
    return [list(others(answer, [next(texts) for _ in own])) for answer, own in zip(answers, found, strict=True)]


def others(answer: str, texts: Sequence[str]) -> Iterator[str]:
    """The texts, each once, without empty ones and the answer itself."""
    yield from (text for text in dict.fromkeys(texts) if text and text != answer)
