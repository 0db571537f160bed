"""Greedy generation, exactly and fast. docs/evaluation_engine.md explains it and gives measurements.

1. Verify: one teacher-forced pass over prompt + reference, in length-sorted batches. An answer that the model still
   knows by heart is done after it; any other has its longest matching prefix.
2. Decode: the rest shares a slot cache (slots.py); finished rows leave it and waiting rows take their places, and each
   step verifies what n-gram lookup guesses (drafts.py).
3. Re-verify: where the best token led by less than rounding may move, the row is decoded again one token at a time by
   transformers itself (plain.py), as far as the last such token. So the text is that of `model.generate` at batch 1.

Shapes: B rows, N decisions of a pass, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from simu.data.batching import Encoded, collate, length_buckets
from simu.inference.drafts import WIDTHS, Row, best_width, settled
from simu.inference.modes import device_of, evaluating, pad_id
from simu.inference.plain import in_float32, one_row
from simu.inference.slots import Slots, context_limit, moving_positions, text_config, trial
from simu.models.forward import labelled_logits
from simu.progress import track
from simu.types import Batch, UserError, require

log = logging.getLogger(__name__)

DOUBT = 128
"""A lead of at most DOUBT × eps × the largest |logit| may be rounding (measured in docs/evaluation_engine.md), …"""
DOUBT_TRIAL = 16
"""… and so may one of DOUBT_TRIAL times what two short rows differed by in a trial: deeper models round more."""
PASS_COST = {"cpu": 32.0}
"""What a forward costs beside its tokens, in tokens: weights to read, kernels to launch. Steers draft widths only."""
PASS_COST_ACCELERATOR = 256.0
CHUNK_ELEMENTS = 2**24
"""Largest float32 copy of logits held at once, in elements (64 MiB)."""
CHUNK_BATCHES = 4
"""Rows of a resumable chunk of decoding, in full caches: more means fewer half-empty tails, and more lost by a kill."""
SINGLE_ROWS = 16
"""Rows of a resumable chunk where rows are decoded one by one."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a model says to one prompt."""

    ids: tuple[int, ...]
    """New token ids, without the EOS that ended them."""
    text: str
    """Decoded without special tokens."""
    finished: bool
    """Whether EOS came within the allowed number of tokens."""
    truncated: bool = False
    """Stopped early because it can no longer equal its reference: good for exact match, not for ROUGE."""


@dataclass
class Work:
    """What a call to `generate` took; filled in as it goes."""

    passes: int = 0
    """Forwards of a batch, those of re-verification included."""
    tokens: int = 0
    """Tokens fed to them, padding included."""
    decisions: int = 0
    """Tokens chosen, EOS included: the forwards that one row and one token at a time would take."""
    doubtful: int = 0
    """Rows with a lead within rounding, decoded again one by one."""
    changed: int = 0
    """Those of them whose text that changed."""

    def __str__(self) -> str:
        again = f"; {self.doubtful} rows decoded again, {self.changed} changed" if self.doubtful else ""
        return f"{self.decisions} tokens in {self.passes} passes{again}"


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
    row ends early where the model's context ends (`max_position_embeddings` tokens fed).

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
    targets = {r.index: str(tokenizer.decode(r.reference, skip_special_tokens=True)) for r in rows if flags[r.index]}
    plan = json.dumps(
        [
            list(map(list, prompts)),
            [r.reference for r in rows],
            max_new_tokens,
            max_batch_tokens,
            flags,
            strict,
            sorted(eos),
        ]
    )
    engine = _Engine(
        model=model,
        tokenizer=tokenizer,
        eos=eos,
        targets={} if strict else targets,
        max_batch_tokens=max_batch_tokens,
        strict=strict,
        store=_Store(checkpoint and checkpoint / hashlib.sha256(plan.encode()).hexdigest()[:16]),
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


_Compute = Callable[[list[Row]], Iterator[Row]]
"""Works on rows and yields each that is done."""


@dataclass(kw_only=True)
class _Engine:
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    eos: frozenset[int]
    targets: dict[int, str]
    """Text that a row must still be able to equal, or it is stopped."""
    max_batch_tokens: int
    strict: bool
    store: _Store
    work: Work

    def run(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Bring every row to its end; each is yielded once, when it is there."""
        self.pad = pad_id(self.tokenizer)
        reason, noise = ("strict", 0.0) if self.strict else trial(self.model)
        eps = _rounding(self.model)
        self.doubt = None if eps is None else max(DOUBT * eps, DOUBT_TRIAL * noise)
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
        return str(self.tokenizer.decode(row.ids, skip_special_tokens=True))

    def _kept(self, name: str, rows: list[Row], compute: _Compute) -> Iterator[Row]:
        """The rows that are done after `compute(rows)`, or after its result was found in the store."""
        if self.store.load(name, rows):
            yield from (r for r in rows if r.done)
            return
        yield from compute(rows)
        self.store.save(name, rows)

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


def choose(logits: Tensor, doubt: float | None) -> tuple[list[int], list[bool]]:
    """The argmax of each row of logits [N, V], and whether it leads by at most `doubt` × the row's largest |logit|
    (None: never)."""
    chosen: list[int] = []
    close: list[bool] = []
    for part in logits.split(max(1, CHUNK_ELEMENTS // logits.shape[-1])):
        best = part.argmax(-1)
        chosen += best.tolist()
        if doubt is None:
            close += [False] * len(best)
            continue
        low, high = part.aminmax(dim=-1)
        second = part.scatter(-1, best.unsqueeze(-1), -torch.inf).amax(-1)
        close += (high - second <= doubt * torch.maximum(high.abs(), low.abs())).tolist()
    return chosen, close


def _rounding(model: nn.Module) -> float | None:
    """The eps of float32 or float64 arithmetic; None for half precision and TF32, whose greedy text is not defined
    beyond the shape of a batch."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float32 and device_of(model).type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return None
    return torch.finfo(dtype).eps if dtype in (torch.float32, torch.float64) else None


@dataclass(frozen=True)
class _Store:
    """Finished batches in a folder: one JSON Lines file each, whole or not there."""

    folder: Path | None

    def load(self, name: str, rows: Sequence[Row]) -> bool:
        """Put the rows where a finished batch left them; False where there is none, or none that can be read."""
        path = self.folder and self.folder / f"{name}.jsonl"
        if path is None or not path.is_file():
            return False
        try:
            found = {r["row"]: r for r in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
            kept = [found[row.index] for row in rows]
            states = [
                ([int(i) for i in k["ids"]], bool(k["finished"]), bool(k["truncated"]), int(k["doubt"])) for k in kept
            ]
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s: not a finished batch (%s), computed again", path, error)
            return False
        for row, (ids, finished, truncated, doubt) in zip(rows, states, strict=True):
            row.ids, row.finished, row.truncated, row.doubt = ids, finished, truncated, doubt
        return True

    def save(self, name: str, rows: Sequence[Row]) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(
                {"row": r.index, "ids": r.ids, "finished": r.finished, "truncated": r.truncated, "doubt": r.doubt}
            )
            for r in rows
        ]
        part = self.folder / f".{name}.{os.getpid()}"
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(part, self.folder / f"{name}.jsonl")
