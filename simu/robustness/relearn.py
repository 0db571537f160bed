"""Relearning: a few steps of fine-tuning, after which the forgotten may be back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from transformers import PreTrainedTokenizerBase

from simu.data.batching import Encoded, encode_examples, pad_id
from simu.fields import Count, Positive, PositiveShare, Rate, between, component, narrow
from simu.losses.objective import teach
from simu.robustness.victim import Victim
from simu.selection.core import apply_tensors
from simu.selection.lora import select_lora
from simu.selection.select import select_parameters
from simu.training import Training, train
from simu.types import Example, require

Rows = Literal["forget", "retain", "holdout"]
Given = Sequence[Example]


@component
class Relearn:
    """Fine-tune every weight on rows, and evaluate after some of the steps: `ATTACK/step_K/…`, K = 0 before any.

    rows=forget: the same rows, or a seeded `share` of them, and what comes back of all (open-unlearning's
    meta-evaluation, arXiv 2506.12618; Unlearn-Smooth, arXiv 2502.05374). rows=retain or holdout: rows without a fact of
    the forget set (arXiv 2406.13356): what comes back was hidden, not gone.
    """

    rows: Rows = "forget"
    """Which rows are taught; holdout rows are never trained on otherwise."""
    share: PositiveShare = 1.0
    """Of these, a seeded draw."""
    most: Count = 1000
    """Rows at most."""
    lr: Rate | None = None
    """AdamW, constant; None: a tenth of the rate at which a model from its config was taught, 2e-5 for others."""
    batch_size: Count = 4
    """Rows a step."""
    steps: tuple[Annotated[int, between(0, 1_000_000)], ...] = (0, 5, 10, 20)
    """After how many steps it is evaluated; rows are gone through as often as the last of them needs."""

    def taught(self, forget: Given, retain: Given, evaluation: Mapping[str, Given]) -> Given:
        """The rows that it draws from; none where the data set has none."""
        return of_side(self.rows, forget, retain, evaluation)

    @property
    def work(self) -> tuple[int, int]:
        """Evaluations, and rows trained on."""
        return len(self.steps), self.steps[-1] * self.batch_size

    def __post_init__(self) -> None:
        rising = bool(self.steps) and list(self.steps) == sorted(set(self.steps))
        require(rising, "steps", self.steps, "numbers that rise, one at least")

    def __call__(self, victim: Victim) -> None:
        model, tokenizer = victim.load()
        encoded = encoded_rows(self, victim, tokenizer)

        def after(step: int) -> None:
            if step in self.steps:
                victim.evaluate(f"step_{step}", model, tokenizer)

        after(0)
        selection = select_parameters(model, None, scope="all", master=victim.precision.master)
        last = self.steps[-1]
        train(
            model,
            selection,
            torch.optim.AdamW(selection.parameters(), lr=self.lr or victim.relearn_lr, weight_decay=0.0),
            teach(),
            encoded,
            settings=settings(len(encoded), self.batch_size, last),
            pad_id=pad_id(tokenizer),
            seed=victim.seed,
            on_step=lambda record: after(int(record["step"] or 0)),
            label="relearning",
        )


@component
class RelearnLoRA:
    """The same through a low-rank adapter on attention and MLP, merged before it is asked: `ATTACK/rank_R/…`."""

    rows: Rows = "forget"
    """Which rows are taught; holdout rows are never trained on otherwise."""
    share: PositiveShare = 1.0
    """Of these, a seeded draw."""
    most: Count = 1000
    """Rows at most."""
    rank: Annotated[int, between(1, 65_536)] = 8
    """Of the adapter's matrices."""
    lr: Positive = 1e-3
    """AdamW, constant."""
    batch_size: Count = 4
    """Rows a step."""
    steps: Count = 20
    """Steps before it is evaluated."""

    def taught(self, forget: Given, retain: Given, evaluation: Mapping[str, Given]) -> Given:
        """The rows that it draws from; none where the data set has none."""
        return of_side(self.rows, forget, retain, evaluation)

    @property
    def work(self) -> tuple[int, int]:
        """Evaluations, and rows trained on."""
        return 1, self.steps * self.batch_size

    def __call__(self, victim: Victim) -> None:
        model, tokenizer = victim.load()
        encoded = encoded_rows(self, victim, tokenizer)
        selection = select_lora(model, None, r=self.rank, alpha=2 * self.rank, dropout=0.0, seed=victim.seed)
        train(
            model,
            selection,
            torch.optim.AdamW(selection.parameters(), lr=self.lr, weight_decay=0.0),
            teach(),
            encoded,
            settings=settings(len(encoded), self.batch_size, self.steps),
            pad_id=pad_id(tokenizer),
            seed=victim.seed,
            label="relearning, LoRA",
        )
        plain, _ = victim.load()
        apply_tensors(plain, selection.trained_tensors())
        victim.evaluate(f"rank_{self.rank}", plain, tokenizer)


def of_side(rows: Rows, forget: Given, retain: Given, evaluation: Mapping[str, Given]) -> Given:
    return {"forget": forget, "retain": retain, "holdout": evaluation.get("holdout", ())}[rows]


def encoded_rows(attack: Relearn | RelearnLoRA, victim: Victim, tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    of = attack.taught(victim.forget, victim.retain, victim.evaluation)
    rows = drawn(of, attack.share, attack.most, victim.seed)
    return encode_examples(tokenizer, victim.template, rows, victim.max_length)


def drawn(of: Sequence[Example], share: float, most: int, seed: int) -> list[Example]:
    """A seeded draw of the rows: `share` of them, one at least and `most` at most."""
    order = torch.randperm(len(of), generator=torch.Generator().manual_seed(narrow(seed)))
    return [of[i] for i in order[: min(most, max(1, round(share * len(of))))].tolist()]


def settings(rows: int, batch: int, steps: int) -> Training:
    epochs = -(-steps * batch // rows) + 1
    return Training(
        epochs=epochs, batch_size=batch, warmup=0.0, schedule="constant", max_steps=steps, checkpoint_every=0
    )
