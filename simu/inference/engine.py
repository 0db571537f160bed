"""What an evaluator asks of a model: answers to prompts, and likelihoods of answers, each unique pair once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simu.data.batching import Encoded, continuation_ids, encode, prompt_ids
from simu.inference.generate import Generation, generate
from simu.inference.likelihood import TokenScores, score
from simu.types import Template, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A prompt and an answer, as the data has them (no template). Pairs of equal texts are asked once."""

    prompt: str
    answer: str
    name: str = field(default="", compare=False)
    """The row, for warnings and errors."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A model under one template and one budget."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    max_length: int | None
    """Tokens of a row at most; longer answers are scored on their beginning, with a warning. None: the model's own."""
    max_new_tokens: int
    max_batch_tokens: int
    strict: bool = False
    checkpoint: Path | None = None
    """Where finished batches of generation are kept."""
    score_eos: bool = True
    """Whether an answer's likelihood takes in its EOS; SOUL's does not."""

    @property
    def window(self) -> int | None:
        return self.max_length or getattr(self.model.config, "max_position_embeddings", None)

    def answers(self, pairs: Iterable[Pair], stop_when_wrong: Collection[Pair] = ()) -> dict[Pair, Generation]:
        """The greedy answer to each unique pair's prompt; the pair's own answer is the draft that the engine verifies.

        `stop_when_wrong`: pairs whose text matters only where it equals the answer (Generation.truncated tells).
        """
        unique = list(dict.fromkeys(pairs))
        made = generate(
            self.model,
            self.tokenizer,
            [self._prompt(pair) for pair in unique],
            max_new_tokens=self.max_new_tokens,
            references=[self._draft(pair.answer) for pair in unique],
            max_batch_tokens=self.max_batch_tokens,
            strict=self.strict,
            checkpoint=self.checkpoint,
            stop_when_wrong=[pair in stop_when_wrong for pair in unique],
        )
        return dict(zip(unique, made, strict=True))

    def encoded(self, pair: Pair) -> Encoded:
        """Prompt ids, and answer ids with EOS (where it is scored)."""
        row = encode(self.tokenizer, self.template, pair.prompt, pair.answer, self.window, pair.name)
        leave = not self.score_eos and row.answer[-1] == self.tokenizer.eos_token_id
        return Encoded(row.prompt, row.answer[:-1]) if leave else row

    def whole(self, text: str, name: str) -> Encoded:
        """A text scored from its second token on, without EOS: as `model(ids, labels=ids)` scores a document."""
        ids = tuple(prompt_ids(self.tokenizer, text))
        if self.window is not None and len(ids) > self.window:
            log.warning("%s: %d tokens, cut to model.max_length=%d", name, len(ids), self.window)
            ids = ids[: self.window]
        return Encoded(ids[:1], ids[1:])

    def likelihoods(self, pairs: Iterable[Pair]) -> dict[Pair, TokenScores]:
        """Token scores by pair: one forward for each unique pair."""
        unique = list(dict.fromkeys(pairs))
        found = self.score([self.encoded(pair) for pair in unique], [pair.name for pair in unique])
        return dict(zip(unique, found, strict=True))

    def score(self, rows: list[Encoded], names: Sequence[str]) -> list[TokenScores]:
        """Token scores of encoded rows. Raises UserError naming a row on which the model yields no finite number."""
        found = score(self.model, self.tokenizer, rows, max_batch_tokens=1 if self.strict else self.max_batch_tokens)
        for name, scores in zip(names, found, strict=True):
            if not len(scores.log_prob):
                raise UserError(f"{name}: no token to score; allowed is an answer of one token, a document of two")
            if not torch.isfinite(scores.log_prob).all():
                raise UserError(f"{name}: the model's log-probabilities are not finite; did its training diverge?")
        return found

    def _prompt(self, pair: Pair) -> list[int]:
        ids = prompt_ids(self.tokenizer, self.template.render(pair.prompt))
        if not ids:
            raise UserError(f"{pair.name}: an empty prompt, and a tokenizer without BOS: nothing to generate from")
        if self.window is None or len(ids) <= self.window:
            return ids
        log.warning("%s: a prompt of %d tokens, its last %d are read", pair.name, len(ids), self.window)
        return ids[-self.window :]

    def _draft(self, answer: str) -> list[int]:
        ids = [*continuation_ids(self.tokenizer, self.template.separator + answer), int(self.tokenizer.eos_token_id)]
        return ids[: self.max_new_tokens]
