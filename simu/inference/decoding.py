"""The engine of greedy generation: verify, decode, re-verify (see `simu.inference.generate`).

Shapes: B rows, N decisions of a pass, V vocabulary.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from simu.data.batching import Encoded, collate, length_buckets
from simu.data.encoding import text_of
from simu.inference.drafts import WIDTHS, Row, best_width, settled
from simu.inference.finished import FinishedBatches
from simu.inference.modes import device_of, pad_id
from simu.inference.plain import one_row
from simu.inference.slots import Slots, moving_positions, text_config, trial
from simu.inference.ties import choose, doubtful_lead
from simu.models.forward import labelled_logits
from simu.types import Batch

log = logging.getLogger(__name__)

PASS_COST = {"cpu": 32.0}
"""What a forward costs beside its tokens, in tokens: weights to read, kernels to launch. Steers draft widths only."""
PASS_COST_ACCELERATOR = 256.0
CHUNK_BATCHES = 4
"""Rows of a resumable chunk of decoding, in full caches: more means fewer half-empty tails, and more lost by a kill."""
SINGLE_ROWS = 16
"""Rows of a resumable chunk where rows are decoded one by one."""


@dataclass
class Work:
    """What a call to `generate` took; filled in as it goes."""

    passes: int = 0
    """Forwards of a batch, those of re-verification included."""
    tokens: int = 0
    """Their input tokens, padding included."""
    decisions: int = 0
    """Tokens chosen, EOS included: the forwards that one row and one token at a time would take."""
    doubtful: int = 0
    """Rows with a lead within rounding, decoded again one by one."""
    changed: int = 0
    """Those of them whose text that changed."""

    def __str__(self) -> str:
        again = f"; {self.doubtful} rows decoded again, {self.changed} changed" if self.doubtful else ""
        return f"{self.decisions} tokens in {self.passes} passes{again}"


_Compute = Callable[[list[Row]], Iterator[Row]]
"""Works on rows and yields each that is done."""


@dataclass(kw_only=True)
class Engine:
    """Brings rows to the ends of their answers; `generate` says what it may assume and what it promises."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    eos: frozenset[int]
    targets: dict[int, str]
    """Text that a row must still be able to equal, or it is stopped."""
    max_batch_tokens: int
    strict: bool
    finished: FinishedBatches
    work: Work

    def run(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Bring every row to its end; each is yielded once, when it is there."""
        self.pad = pad_id(self.tokenizer)
        reason, noise = ("strict", 0.0) if self.strict else trial(self.model)
        self.doubt = doubtful_lead(self.model, noise)
        if not self.strict and not moving_positions(text_config(self.model)):
            yield from self._verify([r for r in rows if r.reference])
        left = [r for r in rows if not r.done]
        if not left:
            return
        if reason is None:
            yield from self._decode(left)
            return
        if not self.strict:
            log.warning("generation falls back to one row at a time: %s", reason)
        for n, start in enumerate(range(0, len(left), SINGLE_ROWS)):
            yield from self._kept(f"single-{n:05d}", left[start : start + SINGLE_ROWS], self._singly)

    def decode(self, row: Row) -> str:
        return text_of(self.tokenizer, row.ids)

    def _kept(self, name: str, rows: list[Row], compute: _Compute) -> Iterator[Row]:
        """The rows that are done after `compute(rows)`, or after its result was found there."""
        if self.finished.load(name, rows):
            yield from (r for r in rows if r.done)
            return
        yield from compute(rows)
        self.finished.save(name, rows)

    # 1. Verify

    def _verify(self, rows: list[Row]) -> Iterator[Row]:
        lengths = [len(r.prompt) + min(len(r.reference), r.budget - 1) + 1 for r in rows]
        for n, bucket in enumerate(length_buckets(lengths, self.max_batch_tokens)):
            yield from self._kept(f"verify-{n:05d}", [rows[i] for i in bucket], self._verify_batch)

    def _verify_batch(self, rows: list[Row]) -> Iterator[Row]:
        drafts = [r.reference[: r.budget - 1] for r in rows]
        # the label behind the draft stands for the token that follows it: its value is never looked at
        encoded = [Encoded(tuple(r.prompt), (*d, self.pad)) for r, d in zip(rows, drafts, strict=True)]
        batch = collate(encoded, self.pad, device_of(self.model))
        ids, mask = batch["input_ids"][:, :-1], batch["attention_mask"][:, :-1]
        logits, _ = labelled_logits(self.model, Batch(input_ids=ids, attention_mask=mask, labels=batch["labels"]))
        self._count(*ids.shape)
        yield from self._accept(rows, drafts, logits)

    # 2. Decode

    def _decode(self, rows: list[Row]) -> Iterator[Row]:
        rows = sorted(rows, key=lambda r: (-len(r.prompt) - r.budget, r.index))
        start = n = 0
        while start < len(rows):
            slots = len(rows[start].prompt) + rows[start].budget
            held = max(1, self.max_batch_tokens // slots)
            chunk = rows[start : start + CHUNK_BATCHES * held]
            yield from self._kept(f"decode-{n:05d}", chunk, self._decode_chunk)
            start, n = start + len(chunk), n + 1

    def _decode_chunk(self, rows: list[Row]) -> Iterator[Row]:
        need = len(rows[0].prompt) + rows[0].budget
        held = min(len(rows), max(1, self.max_batch_tokens // need))
        slots = Slots(self.model, held, need + max(WIDTHS))
        waiting, active = deque(rows), list[Row]()
        while waiting or active:
            free = held - len(active)
            if waiting and (free >= max(1, held // 8) or not active):
                first, batch = len(active), [waiting.popleft() for _ in range(min(free, len(waiting)))]
                active += batch
                drafts: list[list[int]] = [[] for _ in batch]
                tokens = [[*r.prompt, *r.ids] for r in batch]
            else:
                first, batch = 0, active
                drafts = self._drafts(batch)
                tokens = [[r.last, *d] for r, d in zip(batch, drafts, strict=True)]
            logits = slots.step(first, tokens, [len(d) + 1 for d in drafts])
            self._count(len(batch), max(map(len, tokens)))
            yield from self._accept(list(batch), drafts, logits)
            for at in range(len(active) - 1, -1, -1):
                slots.lengths[at] = len(active[at].prompt) + len(active[at].ids) - 1
                if active[at].done:
                    slots.drop(at, len(active) - 1)
                    active[at] = active[-1]
                    active.pop()

    def _drafts(self, rows: Sequence[Row]) -> list[list[int]]:
        guesses = [r.guess(max(WIDTHS) - 1) for r in rows]
        pass_cost = PASS_COST.get(device_of(self.model).type, PASS_COST_ACCELERATOR)
        # a row's keys and values are read once a pass: about as many tokens' worth of work as it has tokens for each
        # channel of the model
        row_cost = sum(len(r.prompt) + len(r.ids) for r in rows) / len(rows) / text_config(self.model).hidden_size
        width = best_width([(r.trust, len(g)) for r, g in zip(rows, guesses, strict=True)], pass_cost, row_cost)
        return [g[: width - 1] for g in guesses]

    # Both

    def _accept(self, rows: list[Row], drafts: list[list[int]], logits: Tensor) -> Iterator[Row]:
        chosen, close = choose(logits, self.doubt)
        at = 0
        for row, draft in zip(rows, drafts, strict=True):
            end = at + len(draft) + 1
            row.accept(draft, chosen[at:end], close[at:end], self.eos)
            at = end
            if not row.done and row.index in self.targets:
                row.truncated = settled(self.decode(row), self.targets[row.index])
            if row.done:
                self._reverify(row)
                yield row

    def _count(self, rows: int, width: int) -> None:
        self.work.passes += 1
        self.work.tokens += rows * width

    # 3. Re-verify

    def _reverify(self, row: Row) -> None:
        if row.doubt == 0:
            return
        self.work.doubtful += 1
        ids, finished = self._one(row, row.doubt)
        if ids == row.ids[: row.doubt] and (not finished or (row.finished and len(row.ids) == row.doubt - 1)):
            return
        self.work.changed += 1
        row.truncated = False
        row.ids, row.finished = (ids, finished) if finished else self._one(row, row.budget)

    def _singly(self, rows: list[Row]) -> Iterator[Row]:
        for row in rows:
            row.ids, row.finished = self._one(row, row.budget)
            yield row

    def _one(self, row: Row, tokens: int) -> tuple[list[int], bool]:
        ids, finished = one_row(self.model, row.prompt, tokens, self.eos, self.pad)
        self.work.passes += len(ids) + finished
        self.work.tokens += len(row.prompt) + len(ids) + finished - 1
        return ids, finished
