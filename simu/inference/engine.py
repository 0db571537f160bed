"""What an evaluator asks of a model: answers to prompts, and likelihoods of answers, each unique pair once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simu.data.batching import Encoded, encode
from simu.data.encoding import Shots, answer_ids, prompt_ids
from simu.inference.generate import Generation, generate
from simu.inference.likelihood import TokenScores, joined, score, stride, windows
from simu.inference.slots import context_limit
from simu.types import Subject, Template, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A prompt and an answer, as the data has them (no template). Pairs of equal texts are asked once."""

    prompt: str
    answer: str
    name: str = field(default="", compare=False)
    """The row, for warnings and errors."""
    shots: Shots = ()
    """Questions with their answers that stand before the prompt."""


@dataclass(frozen=True)
class Settings:
    """How a model is asked."""

    max_new_tokens: int
    max_batch_tokens: int
    strict: bool = False
    """One row at a time, half-precision weights held in float32, no drafts."""
    score_eos: bool = True
    """Whether an answer's likelihood takes in its EOS."""


@dataclass(frozen=True)
class Inference:
    """A model under one template and one budget."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    settings: Settings
    max_length: int | None = None
    """Tokens of a row at most; longer answers are scored on their beginning, with a warning. None: the model's own."""
    checkpoint: Path | None = None
    """Where finished batches of generation are kept."""

    @classmethod
    def of(cls, subject: Subject, settings: Settings) -> Inference:
        one = subject
        return cls(one.model, one.tokenizer, one.template, settings, one.max_length, one.checkpoint)

    @property
    def window(self) -> int | None:
        """Tokens read at once: `max_length`, and no more than the model has positions."""
        return min(filter(None, (self.max_length, context_limit(self.model))), default=None)

    def answers(self, pairs: Iterable[Pair], stop_when_wrong: Collection[Pair] = ()) -> dict[Pair, Generation]:
        """The greedy answer to each unique pair's prompt; the pair's own answer is the draft that the engine verifies.

        `stop_when_wrong`: pairs whose text matters only where it equals the answer (Generation.truncated tells).
        """
        unique = list(dict.fromkeys(pairs))
        made = generate(
            self.model,
            self.tokenizer,
            [self._prompt(pair) for pair in unique],
            max_new_tokens=self.settings.max_new_tokens,
            references=[self._draft(pair.answer) for pair in unique],
            max_batch_tokens=self.settings.max_batch_tokens,
            strict=self.settings.strict,
            checkpoint=self.checkpoint,
            stop_when_wrong=[pair in stop_when_wrong for pair in unique],
        )
        return dict(zip(unique, made, strict=True))

    def encoded(self, pair: Pair) -> Encoded:
        """Prompt ids, and answer ids with EOS (where it is scored)."""
        row = encode(self.tokenizer, self.template, pair.prompt, pair.answer, self.window, pair.name, pair.shots)
        leave = not self.settings.score_eos and row.answer[-1] == self.tokenizer.eos_token_id
        return Encoded(row.prompt, row.answer[:-1]) if leave else row

    def likelihoods(self, pairs: Iterable[Pair]) -> dict[Pair, TokenScores]:
        """Token scores by pair: one forward for each unique pair."""
        unique = list(dict.fromkeys(pairs))
        found = self.score([self.encoded(pair) for pair in unique], [pair.name for pair in unique])
        return dict(zip(unique, found, strict=True))

    def score(self, rows: list[Encoded], names: Sequence[str]) -> list[TokenScores]:
        """Token scores of encoded rows. Raises UserError naming a row on which the model yields no finite number."""
        budget = 1 if self.settings.strict else self.settings.max_batch_tokens
        found = score(self.model, self.tokenizer, rows, max_batch_tokens=budget)
        for name, scores in zip(names, found, strict=True):
            if not len(scores.log_prob):
                raise UserError(f"{name}: no token to score; allowed is an answer of one token, a document of two")
            if not torch.isfinite(scores.log_prob).all():
                raise UserError(f"{name}: the model's log-probabilities are not finite; did its training diverge?")
        return found

    def documents(self, ids: Sequence[list[int]], names: Sequence[str]) -> tuple[list[TokenScores], int]:
        """Token scores of whole texts (token ids) from their second token on, without EOS, as `model(ids, labels=ids)`
        scores a document; and how many are longer than the model takes.

        Those are scored in windows (`simu.inference.likelihood.windows`), which a warning says once.
        """
        limit = self.window or max(map(len, ids), default=0)
        if limit == 1:
            raise UserError("model.max_length=1: allowed is 2 and more, to score a document")
        rows = [windows(i, limit) for i in ids]
        longer = sum(len(i) > limit for i in ids)
        if longer:
            log.warning(
                "%d of %d documents are longer than model.max_length=%d: scored in windows of %d tokens with stride %d",
                longer,
                len(ids),
                limit,
                limit,
                stride(limit),
            )
        each = [name for name, parts in zip(names, rows, strict=True) for _ in parts]
        found = iter(self.score([row for parts in rows for row in parts], each))
        return [joined([next(found) for _ in parts]) for parts in rows], longer

    def _prompt(self, pair: Pair) -> list[int]:
        ids = prompt_ids(self.tokenizer, self.template, pair.prompt, pair.shots)
        if not ids:
            raise UserError(f"{pair.name}: an empty prompt, and a tokenizer without BOS: nothing to generate from")
        if self.window is None or len(ids) <= self.window:
            return ids
        log.warning("%s: a prompt of %d tokens, its last %d are read", pair.name, len(ids), self.window)
        return ids[-self.window :]

    def _draft(self, answer: str) -> list[int]:
        ids = [*answer_ids(self.tokenizer, self.template, answer), int(self.tokenizer.eos_token_id)]
        return ids[: self.settings.max_new_tokens]
