"""LUME's evaluation, as SemEval-2025 Task 4 scores it, and the paper's aggregate of Table 2."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal, get_args

from simu.data.encoding import document_ids
from simu.data.lume import TASKS, kind
from simu.evaluation.answers import warnings_of
from simu.evaluation.rows import Row, Scorer, add_means, all_there, reference_scores, rows_of
from simu.fields import Count, PositiveShare, Seed, Share, above, between, component
from simu.inference.engine import Inference, Settings
from simu.metrics import membership as mia
from simu.metrics.aggregates import fair_aggregate, mia_final, paper_aggregate, task_aggregate
from simu.metrics.collect import Figures
from simu.metrics.metric import row_metrics
from simu.metrics.overforgetting import distinct_n
from simu.metrics.text import Tokenizer
from simu.store.hub import check_fetched
from simu.types import Evaluation, Example, Splits, Subject, UserError, require

Attack = Literal["loss", "zlib", "min_k", "min_k_plus_plus", "reference"]

SPLITS = ("forget", "retain")
MEMBER, NONMEMBER = "mia_member", "mia_nonmember"
MEASURES = ("regurgitation", "knowledge")
MMLU = "cais/mmlu"
"""What lm-eval's task reads."""
PII = {"qa0": "birth_date", "qa1": "ssn", "qa2": "phone", "qa3": "email", "qa4": "address"}
"""What Task2's questions ask for."""


@component
class LumeEvaluator:
    """Regurgitation and knowledge overall, by task and by type of personal data; membership; the two aggregates.

    Metrics are flat: `forget/regurgitation`, `retain/Task2/knowledge/ssn`, `mia/loss`, `task_aggregate`, `aggregate`;
    docs/evaluation.md says what each is.
    """

    benchmark: ClassVar[str] = "lume"

    max_new_tokens: Annotated[int, between(1, 1_048_576)] = 256
    max_batch_tokens: Count = 16384
    """Not a KNOB: texts are the same for any budget, but likelihoods move by what rounding a batch's shape brings."""
    strict: bool = False
    stop_wrong_answers: bool = False
    tokenizer: Tokenizer = "rouge_score"
    attacks: tuple[Attack, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
    mia_k: PositiveShare = 0.2
    mmlu: Share | Literal["lm_eval"] | None = None
    mmlu_shots: Annotated[int, between(0, 1000)] = 5
    bootstrap: Annotated[int, between(0, 1_000_000)] = 1000
    bootstrap_seed: Seed = 0
    confidence: Annotated[float, above(0, 0.9999)] = 0.95

    def __post_init__(self) -> None:
        known = get_args(Attack)
        require(
            "loss" in self.attacks and set(self.attacks) <= set(known),
            "attacks",
            self.attacks,
            f"a list of {', '.join(known)} with loss, the official one, among them",
        )

    def check(self) -> None:
        """Before any stage: raises UserError where mmlu=lm_eval is asked for and lm-eval or its rows cannot be had."""
        if self.mmlu != "lm_eval":
            return
        if find_spec("lm_eval") is None:
            raise UserError(
                "evaluator.mmlu=lm_eval: lm-eval is not installed; install the extra 'harness', pass the "
                "number itself, or null"
            )
        check_fetched(MMLU, "evaluator.mmlu=lm_eval", "pass the number itself, or null")

    def __call__(self, subject: Subject, splits: Splits, *, reference: object = None) -> Evaluation:
        """Evaluate one model. `reference`: the evaluation of a model that never saw the members, for that attack."""
        settings = Settings(self.max_new_tokens, self.max_batch_tokens, self.strict)
        ask = Inference.of(subject, settings)
        measured_mmlu = lm_eval_mmlu(subject, self.mmlu_shots) if self.mmlu == "lm_eval" else self.mmlu
        rows = rows_of(splits, SPLITS, is_question=is_question)
        documents = rows_of(splits, (MEMBER, NONMEMBER))
        scorer = Scorer(metrics=row_metrics(), benchmark=self.benchmark, tokenizer=self.tokenizer)
        ids = self._score_texts(ask, scorer, rows)
        self._score_tokens(ask, scorer, rows)
        windowed = self._score_documents(ask, documents, reference)

        figures = Figures(bootstrap=self.bootstrap, seed=self.bootstrap_seed, confidence=self.confidence)
        for split in (s for s in SPLITS if s in ids):
            of_split = [row for row in rows if row.split == split]
            _add_measures(figures, split, of_split)
            add_means(figures, split, of_split, leave=(*MEASURES, "n_tokens"))
            for n in (1, 2):
                figures.metrics[f"{split}/distinct_{n}"] = distinct_n(ids[split], n)
        self._membership(figures, documents, windowed)
        self._aggregates(figures, measured_mmlu)
        warnings = warnings_of(
            subject.tokenizer,
            subject.template,
            [*rows, *documents],
            generated=SPLITS,
            max_new_tokens=self.max_new_tokens,
            window=ask.window,
            words=self.tokenizer,
        )
        records = [row.record() for row in (*rows, *documents)]
        return Evaluation(metrics=figures.metrics, rows=records, warnings=[*warnings, *figures.left_out])

    def _score_texts(self, ask: Inference, scorer: Scorer, rows: Sequence[Row]) -> dict[str, list[tuple[int, ...]]]:
        """Regurgitation of sc rows, knowledge of qa rows; the generations' token ids by split."""
        stop = {row.pair for row in rows if row.question} if self.stop_wrong_answers else set()
        texts = ask.answers([row.pair for row in rows], stop_when_wrong=stop)
        ids: dict[str, list[tuple[int, ...]]] = {}
        for row in rows:
            generation, partial = texts[row.pair], row.pair in stop
            row.generated = generation.text
            scorer.text(row, generation, partial)
            ids.setdefault(row.split, [])
            if partial:  # a text cut short says nothing of repetition or length
                row.extra["truncated"] = generation.truncated
            else:
                ids[row.split].append(generation.ids)
        return ids

    def _score_tokens(self, ask: Inference, scorer: Scorer, rows: Sequence[Row]) -> None:
        found = ask.likelihoods(row.pair for row in rows)
        for row in rows:
            scorer.tokens(row, found[row.pair])

    def _score_documents(self, ask: Inference, rows: Sequence[Row], reference: object) -> int:
        """Membership scores of whole documents, from the second token on (the first with a tokenizer that adds BOS);
        how many were too long for one window."""
        ids = [document_ids(ask.tokenizer, row.example.answer) for row in rows]
        found, windowed = ask.documents(ids, [row.example.id for row in rows])
        for row, scores in zip(rows, found, strict=True):
            row.scores |= mia.likelihood_scores(scores, row.example.answer, self.attacks, self.mia_k)
            row.scores["mean_nll"], row.scores["n_tokens"] = scores.mean_nll, len(scores)
        if "reference" in self.attacks and reference is not None:
            for split in (MEMBER, NONMEMBER):
                asked = [row for row in rows if row.split == split]
                for row, nll in zip(asked, reference_scores(reference, split, "mean_nll", asked), strict=True):
                    row.scores["mia_reference"] = nll - row.scores["mean_nll"]
        return windowed

    def _membership(self, figures: Figures, rows: Sequence[Row], windowed: int) -> None:
        members, others = ([row.scores for row in rows if row.split == split] for split in (MEMBER, NONMEMBER))
        if not members or not others:
            found = f"{len(members)} member and {len(others)} non-member documents"
            figures.left_out.append(f"mia: left out, the data have {found}")
            return
        mia.add_attacks(figures, self.attacks, (MEMBER, members), (NONMEMBER, others))
        figures.metrics["mia/n_windowed"] = windowed
        if chosen := rows[0].example.group:  # data.mia_set: says by name which documents every mia/* is of
            figures.metrics[f"mia/{chosen}/n_members"] = len(members)
            figures.metrics[f"mia/{chosen}/n_nonmembers"] = len(others)

    def _aggregates(self, figures: Figures, mmlu: float | None) -> None:
        terms = [f"{split}/{task}/{measure}" for split in SPLITS for task in TASKS for measure in MEASURES]
        if all_there(figures, "task_aggregate", terms):
            figures.combine("task_aggregate", terms, task_aggregate)
        if "mia/loss" in figures.metrics:
            figures.combine("mia_final", ["mia/loss"], lambda p: mia_final(p[0]))
        if mmlu is not None:
            figures.metrics["mmlu"] = mmlu
            if all_there(figures, "official_final", ["task_aggregate", "mia_final"]):
                figures.combine("official_final", ["task_aggregate", "mia_final"], lambda p: (p[0] + mmlu + p[1]) / 3)
        parts = ["forget/knowledge", "forget/regurgitation", "mia/loss", "retain/knowledge", "retain/regurgitation"]
        if all_there(figures, "aggregate", parts):
            figures.combine("aggregate", parts, lambda p: paper_aggregate(*p))
            fair = [*parts, "forget/repetition_rate", "forget/empty"]
            if self.stop_wrong_answers:  # collapse is then known of some texts only
                figures.left_out.append("aggregate_fair: left out, stop_wrong_answers=true cuts texts short")
            elif all_there(figures, "aggregate_fair", fair):
                figures.combine("aggregate_fair", fair, lambda p: fair_aggregate(*p))


def is_question(example: Example) -> bool:
    return kind(example.id).startswith("qa")


def _add_measures(figures: Figures, split: str, rows: Sequence[Row]) -> None:
    """Row means of both measures overall and by task, and of knowledge by type of personal data in Task2, each with
    the number of its rows."""

    def add(group: str, measure: str, chosen: Sequence[Row], part: str = "") -> None:
        values = [row.scores[measure] for row in chosen if measure in row.scores]
        if values:
            key = f"{split}/{group}{measure}{part}"
            figures.mean(key, key, values)
            figures.metrics[f"{key}/n"] = len(values)

    by_task = {task: [row for row in rows if row.example.group == task] for task in TASKS}
    for measure in MEASURES:
        add("", measure, rows)
        for task, of_task in by_task.items():
            add(f"{task}/", measure, of_task)
    for code, name in PII.items():
        add("Task2/", "knowledge", [row for row in by_task["Task2"] if kind(row.example.id) == code], f"/{name}")


def lm_eval_mmlu(subject: Subject, shots: int) -> float:
    """MMLU accuracy in [0, 1] by lm-eval (extra `harness`)."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer)
    result = simple_evaluate(model=model, tasks=["mmlu"], num_fewshot=shots)
    return float(result["results"]["mmlu"]["acc,none"])
