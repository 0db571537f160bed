"""TOFU's evaluation (SPEC §7), for every data set of that shape: question–answer rows by split."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simu.evaluation import membership as mia
from simu.evaluation import metrics as of
from simu.evaluation.figures import Figures
from simu.evaluation.inference import Inference, Pair
from simu.evaluation.likelihood import TokenScores
from simu.types import Evaluation, Example, Splits, Template, require

log = logging.getLogger(__name__)

Attack = Literal["loss", "zlib", "min_k", "min_k_plus_plus"]

GENERATED = ("forget", "retain", "world_facts", "real_authors")
SHORT = ("world_facts", "real_authors")
"""Splits whose gold answers are a few words: contains_answer says more than exact_match there."""
HOLDOUT = "holdout"
NOT_METRICS = ("n_tokens", "truth_ratio_raw")
"""Row scores that are stored, not averaged."""


@dataclass(kw_only=True)
class Row:
    example: Example
    split: str
    generated: str | None = None
    scores: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        e = self.example
        return {"id": e.id, "split": self.split, "prompt": e.prompt, "answer": e.answer,
                "generated": self.generated, "scores": self.scores}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TofuEvaluator:
    """Generation, likelihood and membership metrics of every split present, and the paper's aggregate."""

    max_new_tokens: int = 200
    max_batch_tokens: int = 16384
    strict: bool = False
    attacks: tuple[Attack, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus")
    mia_k: float = 0.2
    aggregate_em: Literal["exact_match"] = "exact_match"
    aggregate_mia: Attack = "min_k"
    bootstrap: int = 1000
    bootstrap_seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "≥ 1")
        require(self.max_batch_tokens >= 1, "max_batch_tokens", self.max_batch_tokens, "≥ 1")
        require(0 < self.mia_k <= 1, "mia_k", self.mia_k, "0 < mia_k ≤ 1")
        require(self.bootstrap >= 0, "bootstrap", self.bootstrap, "≥ 0 (0: no intervals)")
        require(0 < self.confidence < 1, "confidence", self.confidence, "0 < confidence < 1")
        require(
            self.aggregate_mia in self.attacks, "aggregate_mia", self.aggregate_mia, f"one of attacks={self.attacks}"
        )

    def __call__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        splits: Splits,
        template: Template,
        *,
        max_length: int | None = None,
        reference: object = None,
    ) -> Evaluation:
        ask = Inference(model=model, tokenizer=tokenizer, template=template, max_length=max_length,
                        max_new_tokens=self.max_new_tokens, max_batch_tokens=self.max_batch_tokens,
                        strict=self.strict)  # fmt: skip
        rows = [Row(example=e, split=s) for s in (*GENERATED, HOLDOUT) for e in splits.evaluation.get(s, ())]
        self._score_texts(ask, rows)
        self._score_tokens(ask, rows)
        figures = Figures(bootstrap=self.bootstrap, seed=self.bootstrap_seed, confidence=self.confidence)
        summarise(figures, rows)
        self._membership(figures, rows)
        self._aggregate(figures)
        return Evaluation(metrics=figures.metrics, rows=[r.record() for r in rows])

    def _score_texts(self, ask: Inference, rows: Sequence[Row]) -> None:
        asked = [r for r in rows if r.split != HOLDOUT]
        for row, made in zip(asked, ask.answers([pair(r) for r in asked]), strict=True):
            row.generated = made.text
            row.scores["exact_match"] = of.exact_match(row.example.answer, made.text)
            row.scores["rouge_l_recall"] = of.rouge_l_recall(row.example.answer, made.text)
            if row.split in SHORT:
                row.scores["contains_answer"] = of.contains_answer(row.example.answer, made.text)

    def _score_tokens(self, ask: Inference, rows: Sequence[Row]) -> None:
        found = ask.likelihoods(pair(r) for r in rows)
        for row in rows:
            scores = found[pair(row)]
            row.scores["mean_nll"] = scores.mean_nll
            row.scores["n_tokens"] = len(scores)
            if row.split in ("forget", HOLDOUT):
                for attack in self.attacks:
                    row.scores[f"mia_{attack}"] = self._attack(attack, scores, row.example.answer)

    def _attack(self, attack: Attack, scores: TokenScores, answer: str) -> float:
        if attack == "loss":
            return mia.loss(scores)
        if attack == "zlib":
            return mia.zlib_ratio(scores, answer)
        return (mia.min_k if attack == "min_k" else mia.min_k_plus_plus)(scores, self.mia_k)

    def _membership(self, figures: Figures, rows: Sequence[Row]) -> None:
        members = [r.scores for r in rows if r.split == "forget"]
        others = [r.scores for r in rows if r.split == HOLDOUT]
        if not members or not others:
            log.warning(
                "no membership metrics: they need forget rows (%d) and holdout rows (%d)", len(members), len(others)
            )
            return
        for attack in self.attacks:
            name = f"mia_{attack}"
            figures.auc(f"mia/{attack}", ("forget", [s[name] for s in members]), (HOLDOUT, [s[name] for s in others]))
        figures.metrics["mia/n_members"], figures.metrics["mia/n_nonmembers"] = len(members), len(others)

    def _aggregate(self, figures: Figures) -> None:
        em, rouge = self.aggregate_em, "rouge_l_recall"
        parts = [f"forget/{em}", f"forget/{rouge}", f"mia/{self.aggregate_mia}", f"retain/{em}", f"retain/{rouge}"]
        missing = [p for p in parts if p not in figures.metrics]
        if missing:
            log.warning("no aggregate: the data lack %s", ", ".join(missing))
            return
        figures.combine("aggregate", parts, lambda p: of.paper_aggregate(*p))


def pair(row: Row) -> Pair:
    return row.example.prompt, row.example.answer


def summarise(figures: Figures, rows: Iterable[Row]) -> None:
    """Every row score's mean by split, and how many rows it is of."""
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    for split, members in by_split.items():
        figures.metrics[f"{split}/n"] = len(members)
        names = dict.fromkeys(n for r in members for n in r.scores if n not in NOT_METRICS and not n.startswith("mia_"))
        for name in names:
            values = [r.scores[name] for r in members if name in r.scores]
            figures.mean(f"{split}/{name}", split, values)
            if len(values) != len(members):
                figures.metrics[f"{split}/{name}/n"] = len(values)
                log.warning("%s/%s: scored on %d of %d rows", split, name, len(values), len(members))
