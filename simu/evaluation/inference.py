"""What an evaluator asks of a model: answers to prompts, and likelihoods of answers, each unique pair once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simu.data.batching import Encoded, continuation_ids, encode, prompt_ids
from simu.evaluation.generate import Generation, generate
from simu.evaluation.likelihood import TokenScores, score
from simu.types import Template, UserError

Pair = tuple[str, str]
"""A prompt and an answer, as the data has them (no template)."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A model under one template and one budget. Both methods answer in the order of what they are given."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    max_length: int | None
    """Tokens of a row at most; longer answers are scored on their beginning, with a warning. None: the model's own."""
    max_new_tokens: int
    max_batch_tokens: int
    strict: bool = False

    @property
    def window(self) -> int | None:
        return self.max_length or getattr(self.model.config, "max_position_embeddings", None)

    def answers(self, pairs: Sequence[Pair]) -> list[Generation]:
        """The greedy answer to each pair's prompt; the pair's own answer is the draft that the engine may verify."""
        unique = list(dict.fromkeys(pairs))
        prompts = [self._prompt(prompt) for prompt, _ in unique]
        drafts = [self._draft(answer) for _, answer in unique]
        made = generate(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=self.max_new_tokens,
            references=drafts,
            max_batch_tokens=self.max_batch_tokens,
            strict=self.strict,
        )
        found = dict(zip(unique, made, strict=True))
        return [found[pair] for pair in pairs]

    def encoded(self, pairs: Iterable[Pair]) -> list[Encoded]:
        return [encode(self.tokenizer, self.template, p, a, self.window, f"the row {p[:40]!r}") for p, a in pairs]

    def likelihoods(self, pairs: Iterable[Pair]) -> dict[Pair, TokenScores]:
        """Token scores by pair: one forward for each unique pair. Raises UserError where the model yields NaN."""
        unique = list(dict.fromkeys(pairs))
        scores = self.score(self.encoded(unique))
        for (prompt, _), found in zip(unique, scores, strict=True):
            if not torch.isfinite(found.log_prob).all():
                raise UserError(
                    f"the model's log-probabilities are not finite on {prompt[:60]!r}: did training diverge?"
                )
        return dict(zip(unique, scores, strict=True))

    def score(self, rows: list[Encoded]) -> list[TokenScores]:
        return score(self.model, self.tokenizer, rows, max_batch_tokens=self.max_batch_tokens)

    def _prompt(self, prompt: str) -> list[int]:
        ids = prompt_ids(self.tokenizer, self.template.render(prompt))
        return ids if self.window is None else ids[-self.window :]

    def _draft(self, answer: str) -> list[int]:
        ids = [*continuation_ids(self.tokenizer, self.template.separator + answer), int(self.tokenizer.eos_token_id)]
        return ids[: self.max_new_tokens]
