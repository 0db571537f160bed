"""TOFU's evaluation, for every data set of that shape: question–answer rows by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, get_args

from simu.data.batching import Encoded
from simu.data.comparing import compared
from simu.data.encoding import joint_ids
from simu.evaluation.answers import warnings_of
from simu.evaluation.choice import Similarities, check_embedding, embedding_similarities, encoder_place
from simu.evaluation.prompts import ask_otherwise
from simu.evaluation.rows import Row, Scorer, add_means, all_there, reference_scores, rows_of
from simu.fields import Count, Place, PositiveShare, Seed, above, between, component
from simu.inference.engine import Inference, Pair, Settings
from simu.inference.generate import Generation
from simu.inference.gradient import gradient_norms
from simu.inference.likelihood import TokenScores
from simu.inference.modes import device_of, pad_id
from simu.metrics import likelihood as of
from simu.metrics import membership as mia
from simu.metrics.aggregates import fair_aggregate, harmonic_mean, paper_aggregate
from simu.metrics.choice import choice_point, rouge_similarities
from simu.metrics.collect import Figures
from simu.metrics.metric import row_metrics
from simu.metrics.overforgetting import distinct_n
from simu.metrics.statistics import auc
from simu.metrics.text import Tokenizer
from simu.models.content import content
from simu.store.identity import fields
from simu.types import Evaluation, Splits, Subject, require

Attack = Literal["loss", "zlib", "min_k", "min_k_plus_plus", "reference", "grad_norm", "soul_compat"]
ChoiceScorer = Literal["none", "embedding", "rouge_l", "likelihood"]

GENERATED = ("forget", "retain", "world_facts", "real_authors")
SHORT = ("world_facts", "real_authors")
"""Gold answers of a few words, asked as multiple choice: contains_answer, and probabilities against the options."""
HOLDOUT = "holdout"
UTILITY = ("retain", "real_authors", "world_facts")
STORED = ("n_tokens", "truth_ratio_raw")
"""Row scores that are kept for other uses, not averaged."""


@component
class TofuEvaluator:
    """Generation, likelihood and membership metrics of every split present, and the paper's aggregate.

    Metrics are flat: `forget/exact_match`, `mia/min_k`, `aggregate`, each with `/ci_low` and `/ci_high`; what they
    are, and in which direction they are better, is in docs/evaluation.md. A metric whose rows the data lack is left
    out, with a warning.
    """

    benchmark: ClassVar[str] = "qa"

    max_new_tokens: Annotated[int, between(1, 1_048_576)] = 200
    max_batch_tokens: Count = 16384
    """Not a KNOB: texts are the same for any budget, but likelihoods move by what rounding a batch's shape brings."""
    strict: bool = False
    compat: Literal["none", "soul", "open_unlearning"] = "none"
    tokenizer: Tokenizer = "rouge_score"
    question_key: Literal["original", "paraphrased"] = "original"
    few_shot: Annotated[int, between(0, 256)] = 0
    choice_scorer: ChoiceScorer = "rouge_l"
    embedding_model: Place = "sentence-transformers/paraphrase-MiniLM-L6-v2"
    truth_ratio: bool = True
    attacks: tuple[Attack, ...] = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")
    mia_k: PositiveShare = 0.2
    aggregate_em: Literal["exact_match", "choice_accuracy"] = "exact_match"
    aggregate_mia: Attack = "min_k"
    bootstrap: Annotated[int, between(0, 1_000_000)] = 1000
    bootstrap_seed: Seed = 0
    confidence: Annotated[float, above(0, 0.9999)] = 0.95

    def __post_init__(self) -> None:
        known = set(get_args(Attack))
        require(set(self.attacks) <= known, "attacks", self.attacks, f"a list of {', '.join(sorted(known))}")
        require(
            self.aggregate_mia in self.attacks,
            "aggregate_mia",
            self.aggregate_mia,
            f"one of attacks, {', '.join(self.attacks) or 'which are none'}",
        )
        require(
            self.aggregate_em == "exact_match" or self.choice_scorer != "none",
            "aggregate_em",
            self.aggregate_em,
            "exact_match where choice_scorer=none",
        )

    def identity(self) -> dict[str, Any]:
        """For the cache: the sentence encoder by its content."""
        found = {"component": type(self).__name__, **fields(self)}
        if self.choice_scorer == "embedding":
            found["embedding_model"] = content(encoder_place(self.embedding_model))
        return found

    @property
    def modules(self) -> tuple[str, ...]:
        return (type(self).__module__,)

    def check(self) -> None:
        """Before any stage: raises UserError where an extra or the sentence encoder is asked for and cannot be had."""
        if self.choice_scorer == "embedding":
            check_embedding(self.embedding_model)

    def __call__(self, subject: Subject, splits: Splits, *, reference: object = None) -> Evaluation:
        """Evaluate one model. `reference`: the evaluation of a model that never saw the forget rows (an Evaluation, or
        rows of a generations.jsonl): with it come forget_quality and the reference attack."""
        settings = Settings(self.max_new_tokens, self.max_batch_tokens, self.strict, score_eos=self.compat != "soul")
        ask = Inference.of(subject, settings)
        embedding = self.choice_scorer == "embedding"
        embed = embedding_similarities(self.embedding_model, device_of(subject.model)) if embedding else None
        rows = rows_of(splits, (*GENERATED, HOLDOUT), short=SHORT)
        said = ask_otherwise(rows, paraphrased=self.question_key == "paraphrased", few_shot=self.few_shot)
        texts = ask.answers(self._pairs_to_generate(rows))
        tokens = ask.likelihoods(self._pairs_to_score(rows))
        self._score_texts(rows, texts)
        self._score_tokens(rows, tokens)
        if self.truth_ratio:
            self._score_truth(rows, tokens)
        if self.choice_scorer == "likelihood":
            self._choose_by_likelihood(rows, tokens)
        elif self.choice_scorer != "none":
            self._choose_by_text(rows, texts, embed or partial(rouge_similarities, tokenizer=self.tokenizer))
        self._score_attacks(ask, rows, reference)

        figures = Figures(bootstrap=self.bootstrap, seed=self.bootstrap_seed, confidence=self.confidence)
        for split in dict.fromkeys(row.split for row in rows):
            add_means(figures, split, [row for row in rows if row.split == split], leave=STORED)
            ids = [texts[row.pair].ids for row in rows if row.split == split and row.pair in texts]
            for n in (1, 2) if ids else ():
                figures.metrics[f"{split}/distinct_{n}"] = distinct_n(ids, n)
        self._membership(ask, figures, rows, reference)
        self._truth_over_splits(figures, rows, reference)
        em, rouge = self.aggregate_em, "rouge_l_recall"
        parts = [f"forget/{em}", f"forget/{rouge}", f"mia/{self.aggregate_mia}", f"retain/{em}", f"retain/{rouge}"]
        if all_there(figures, "aggregate", parts):
            figures.combine("aggregate", parts, lambda p: paper_aggregate(*p))
            fair = [*parts, "forget/repetition_rate", "forget/empty"]
            if all_there(figures, "aggregate_fair", fair):
                figures.combine("aggregate_fair", fair, lambda p: fair_aggregate(*p))
        warnings = warnings_of(
            subject.tokenizer,
            subject.template,
            rows,
            generated=GENERATED,
            max_new_tokens=self.max_new_tokens,
            window=ask.window,
            words=self.tokenizer,
        )
        records = [row.record() for row in rows]
        return Evaluation(metrics=figures.metrics, rows=records, warnings=[*said, *warnings, *figures.left_out])

    # --- what the model is asked, all at once: each unique pair one row of one plan ---------------------------------

    def _pairs_to_generate(self, rows: Sequence[Row]) -> list[Pair]:
        pairs = [row.pair for row in rows if is_asked(row)]
        if self.choice_scorer in ("rouge_l", "embedding"):
            pairs += [choices(row)[0] for row in rows if is_choice(row)]
        return pairs

    def _pairs_to_score(self, rows: Sequence[Row]) -> list[Pair]:
        pairs = [pair for row in rows for pair in (row.pair, row.taught)]
        if self.truth_ratio:
            pairs += [pair for row in rows if has_options(row) for pair in self._truths(row)]
        if self.choice_scorer == "likelihood":
            pairs += [pair for row in rows if is_choice(row) for pair in choices(row)]
        return pairs

    def _truths(self, row: Row) -> list[Pair]:
        """What the truth ratio compares; SOUL asks with the paraphrased question."""
        e = row.example
        return options(row, (e.paraphrased_prompt or e.prompt) if self.compat == "soul" else row.prompt)

    # --- row scores ------------------------------------------------------------------------------------------------

    def _score_texts(self, rows: Sequence[Row], texts: Mapping[Pair, Generation]) -> None:
        scorer = self._scorer()
        for row in filter(is_asked, rows):
            row.generated = texts[row.pair].text
            scorer.text(row, texts[row.pair])

    def _score_tokens(self, rows: Sequence[Row], tokens: Mapping[Pair, TokenScores]) -> None:
        """Scores of the answers' likelihoods, the membership scores that need nothing else among them."""
        scorer, drop = self._scorer(), self.compat == "open_unlearning"
        for row in rows:
            scorer.tokens(row, tokens[row.pair])
            scores, answer = tokens[row.taught], row.example.answer  # membership is of what was taught
            if row.split in ("forget", HOLDOUT):
                asked = (*self.attacks, mia.MIN_40)
                row.scores |= mia.likelihood_scores(scores, answer, asked, self.mia_k, drop_last=drop)

    def _scorer(self) -> Scorer:
        return Scorer(metrics=row_metrics(), benchmark=self.benchmark, compat=self.compat, tokenizer=self.tokenizer)

    def _score_truth(self, rows: Sequence[Row], tokens: Mapping[Pair, TokenScores]) -> None:
        """Truth ratio, and the probability of a short answer among its options."""
        soul = self.compat == "soul"
        ratio = of.truth_ratio_arithmetic if soul else of.truth_ratio
        for row in filter(has_options, rows):
            right, *wrong = (tokens[pair] for pair in self._truths(row))
            raw = ratio(right, wrong)
            better = of.closer_to_one if row.split == "forget" else of.true_better
            row.scores["truth_ratio_raw"] = raw
            row.scores["truth_ratio"] = raw if soul else better(raw)
            row.scores["truth_ratio_prob_mean"] = of.truth_probability(right, wrong)
            if row.split in SHORT:
                row.scores["probability_normalised"] = of.normalised_probability(right, wrong)

    def _choose_by_likelihood(self, rows: Sequence[Row], tokens: Mapping[Pair, TokenScores]) -> None:
        for row in filter(is_choice, rows):
            row.scores["choice_accuracy"] = choice_point([of.probability(tokens[pair]) for pair in choices(row)])

    def _choose_by_text(self, rows: Sequence[Row], texts: Mapping[Pair, Generation], similar: Similarities) -> None:
        asked = list(filter(is_choice, rows))
        generated = [texts[choices(row)[0]].text for row in asked]
        candidates = [tuple(compared(pair.answer) for pair in choices(row)) for row in asked]
        near = similar([compared(text) for text in generated], candidates)
        for row, text, found in zip(asked, generated, near, strict=True):
            row.extra["generated_paraphrased"] = text
            row.scores["choice_accuracy"] = choice_point(found, shared=self.compat != "soul")

    def _score_attacks(self, ask: Inference, rows: Sequence[Row], reference: object) -> None:
        """The membership scores that need another model or a backward pass."""
        for split in ("forget", HOLDOUT):
            asked = [row for row in rows if row.split == split]
            if "reference" in self.attacks and reference is not None:
                theirs = reference_scores(reference, split, "mean_nll", asked)
                for row, nll in zip(asked, theirs, strict=True):
                    row.scores["mia_reference"] = nll - row.scores["mean_nll"]
            if "grad_norm" in self.attacks:
                encoded = [self._without_last(ask.encoded(row.taught)) for row in asked]
                norms = gradient_norms(ask.model, encoded, pad_id(ask.tokenizer))
                for row, norm in zip(asked, norms, strict=True):
                    row.scores["mia_grad_norm"] = -norm

    def _without_last(self, row: Encoded) -> Encoded:
        """open-unlearning leaves the last labelled token (EOS) out; as no later label reads it, out of the input."""
        return Encoded(row.prompt, row.answer[:-1]) if self.compat == "open_unlearning" else row

    # --- metrics over rows -----------------------------------------------------------------------------------------

    def _membership(self, ask: Inference, figures: Figures, rows: Sequence[Row], reference: object) -> None:
        members, others = ([row.scores for row in rows if row.split == split] for split in ("forget", HOLDOUT))
        if members and others:
            mia.add_attacks(figures, (*self.attacks, mia.MIN_40), ("forget", members), (HOLDOUT, others))
            retain_only = retain_only_auc(rows, reference)
            figures.combine("privleak", [f"mia/{mia.MIN_40}"], lambda p: mia.privleak(p[0], retain_only))
            figures.combine("rel_diff", [f"mia/{mia.MIN_40}"], lambda p: mia.rel_diff(p[0], retain_only))
        elif set(self.attacks) - {"soul_compat"}:
            found = f"{len(members)} forget and {len(others)} holdout rows"
            figures.left_out.append(f"mia: left out, the data have {found}")
        if "soul_compat" in self.attacks:
            self._soul_membership(ask, figures, rows)

    def _soul_membership(self, ask: Inference, figures: Figures, rows: Sequence[Row]) -> None:
        """min-k over question and answer, labelled as SOUL labels them."""
        by_split: dict[str, list[float]] = {}
        for split in ("forget", "real_authors", "world_facts"):
            asked = [row for row in rows if row.split == split]
            pairs = [(row.example.prompt, row.example.answer) for row in asked]
            ids = [joint_ids(ask.tokenizer, ask.template, *pair) for pair in pairs]
            found, _ = ask.documents(ids, [row.example.id for row in asked])
            by_split[split] = [mia.min_k(scores, self.mia_k) for scores in found]
            for row, score in zip(asked, by_split[split], strict=True):
                row.scores["mia_soul_compat"] = score
        positive, negative = mia.soul_groups(by_split["forget"], by_split["real_authors"] + by_split["world_facts"])
        if positive and negative:
            figures.auc("mia/soul_compat", ("soul positive", positive), ("soul negative", negative))
        else:
            lacking = "forget rows, or real_authors and world_facts rows"
            figures.left_out.append(f"mia/soul_compat: left out, the data lack {lacking}")

    def _truth_over_splits(self, figures: Figures, rows: Sequence[Row], reference: object) -> None:
        """forget_quality and model_utility (TOFU)."""
        if not self.truth_ratio:
            return
        forget = [row for row in rows if row.split == "forget" and "truth_ratio_raw" in row.scores]
        ours = [row.scores["truth_ratio_raw"] for row in forget]
        if self.compat == "soul":
            theirs = [
                r.scores["truth_ratio_raw"] for r in rows if r.split == "retain" and "truth_ratio_raw" in r.scores
            ]
        else:
            theirs = reference_scores(reference, "forget", "truth_ratio_raw", forget) if reference is not None else []
        if ours and theirs:
            figures.metrics["forget_quality"] = of.forget_quality(ours, theirs)
        likely = {split: "probability_normalised" if split in SHORT else "probability" for split in UTILITY}
        parts = [f"{split}/{name}" for split in UTILITY for name in (likely[split], "rouge_l_recall", "truth_ratio")]
        if self.compat != "soul" and all_there(figures, "model_utility", parts):
            figures.combine("model_utility", parts, harmonic_mean)


def retain_only_auc(rows: Sequence[Row], reference: object) -> float:
    """The reference's AUC of min-40 % on these rows; without a reference 0.5, what a model without the rows should have
    (open-unlearning's default)."""
    if reference is None:
        return 0.5
    name = f"mia_{mia.MIN_40}"
    groups = ([row for row in rows if row.split == split] for split in ("forget", HOLDOUT))
    members, others = (reference_scores(reference, g[0].split, name, g) for g in groups)
    return auc(members, others)


def is_asked(row: Row) -> bool:
    return row.split != HOLDOUT and not row.is_document


def has_options(row: Row) -> bool:
    return row.split != HOLDOUT and bool(row.example.perturbed_answers)


def is_choice(row: Row) -> bool:
    return row.split in ("forget", "retain") and has_options(row)


def options(row: Row, prompt: str) -> list[Pair]:
    """The right answer (paraphrased where there is a paraphrase), then the perturbed ones, under one question."""
    e = row.example
    right = e.answer if e.paraphrased_answer is None else e.paraphrased_answer
    return [Pair(prompt, answer, e.id, row.shots) for answer in (right, *e.perturbed_answers)]


def choices(row: Row) -> list[Pair]:
    """What choice_accuracy chooses from: the options under the paraphrased question."""
    return options(row, row.example.paraphrased_prompt or row.example.prompt)
