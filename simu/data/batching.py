"""From text to padded batches: template, tokenisation, labels, length buckets, and the forget–retain pairing table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from simu.data.encoding import Shots, answer_ids, prompt_ids
from simu.fields import narrow
from simu.types import IGNORE, Batch, Example, Template

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """Token ids of one row. `answer` ends with EOS; prompt + answer is what the model reads."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills a batch up. Any id does, as padding is known by position: pad, else EOS, else 0."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(i) for i in ids if isinstance(i, int)), 0)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    prompt: str,
    answer: str,
    max_length: int | None = None,
    name: str = "",
    shots: Shots = (),
) -> Encoded:
    """Prompt ids + answer ids + EOS, tokenised apart so that the seam is the same in training and in generation.

    Rows longer than `max_length` tokens lose the end of their answer (and EOS), with a warning that names the row; a
    prompt that leaves no room for one answer token loses its beginning.
    """
    head = prompt_ids(tokenizer, template, prompt, shots)
    tail = [*answer_ids(tokenizer, template, answer), int(tokenizer.eos_token_id)]
    if max_length is not None and len(head) + len(tail) > max_length:
        say_cut(name, len(head) + len(tail), max_length)
        tail = tail[: max(1, max_length - len(head))]
        head = head[max(0, len(head) + len(tail) - max_length) :]
    return Encoded(tuple(head), tuple(tail))


@cache
def say_cut(name: str, tokens: int, max_length: int) -> None:
    """Once a row: each stage reads it again."""
    log.warning("%s: %d tokens, cut to model.max_length=%d", name, tokens, max_length)


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, template: Template, examples: Sequence[Example], max_length: int | None = None
) -> list[Encoded]:
    return [encode(tokenizer, template, e.prompt, e.answer, max_length, e.id) for e in examples]


def collate(rows: Sequence[Encoded], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Right-padded LongTensors [B, T]; padding is known by position, never by pad == eos."""
    width = max(len(r) for r in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORE)
    for i, r in enumerate(rows):
        ids[i, : len(r)] = torch.tensor(r.prompt + r.answer)
        mask[i, : len(r)] = 1
        labels[i, len(r.prompt) : len(r)] = torch.tensor(r.answer)
    return Batch(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device))


def length_buckets(lengths: Sequence[int], max_tokens: int, max_rows: int | None = None) -> Iterator[list[int]]:
    """Indices grouped longest first, so that rows × longest ≤ `max_tokens` (one row at least): little padding, and the
    batch that needs most memory comes first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    bucket: list[int] = []
    for i in order:
        width = lengths[bucket[0]] if bucket else 0
        if bucket and ((len(bucket) + 1) * width > max_tokens or len(bucket) == max_rows):
            yield bucket
            bucket = []
        bucket.append(i)
    if bucket:
        yield bucket


def pairing_table(n_forget: int, n_retain: int, epochs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Forget order and retain partner, both LongTensor [epochs, n_forget] (one pass over the shuffled forget
    set is an epoch; each forget row draws one retain row uniformly with replacement).

    A function of (epoch, global sample) alone: the draw does not change with the number of workers, a restart, or the
    number of epochs.
    """
    forget = torch.empty(epochs, n_forget, dtype=torch.long)
    retain = torch.empty(epochs, n_forget, dtype=torch.long)
    for epoch in range(epochs):
        # no two (seed, epoch) share a stream
        generator = torch.Generator().manual_seed(narrow(seed) * 1_000_003 + epoch)
        forget[epoch] = torch.randperm(n_forget, generator=generator)
        retain[epoch] = torch.randint(n_retain, (n_forget,), generator=generator)
    return forget, retain
