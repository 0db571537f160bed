"""What one row's text scores. Pure functions of two texts. Every score and its source: docs/evaluation.md."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Literal

import regex
from nltk.stem.porter import PorterStemmer
from rapidfuzz.distance import LCSseq
from rouge_score.tokenize import tokenize

from simu.data.comparing import compared
from simu.metrics.metric import row_mean

Tokens = tuple[str, ...]
Tokenizer = Literal["rouge_score", "unicode"]
"""What ROUGE's words are: rouge_score's own, which sees [a-z0-9] alone, or those of any script."""
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}]"
_WORDS = regex.compile(rf"{_ALONE}\p{{M}}*|[[\w\p{{M}}]--{_ALONE}]+|(?=[\p{{S}}--\p{{ASCII}}])\X", regex.VERSION1)


class _Stemmer:
    """rouge_score's stemmer, each word stemmed once: stemming is most of ROUGE's time."""

    def __init__(self) -> None:
        self.stem = lru_cache(maxsize=2**18)(PorterStemmer().stem)


_STEMMER = _Stemmer()


@lru_cache(maxsize=2**16)
def rouge_tokens(text: str, tokenizer: Tokenizer = "rouge_score") -> Tokens:
    """What ROUGE compares of a text.

    rouge_score: its own tokens, lower case, [a-z0-9]+, Porter stems of words longer than three letters. unicode: words
    of any script (\\w with its accents), single Chinese and Japanese characters, single emoji and other signs beyond
    ASCII; lower case, and the same stems of the words that rouge_score would stem.
    """
    if tokenizer == "rouge_score":
        return tuple(tokenize(compared(text), _STEMMER))
    words = _WORDS.findall(compared(text).lower())
    return tuple(_STEMMER.stem(w) if len(w) > 3 and w.isascii() and w.isalnum() else w for w in words)


def unseen(text: str) -> bool:
    """Whether most letters, digits and signs of a text are lost to rouge_score's tokens, or all of them."""
    kept = sum(len(token) for token in tokenize(text, None))
    found = sum(len(word) for word in _WORDS.findall(compared(text).lower()))
    return not kept or 2 * kept < found


def rouge_l_recall(answer: str, generated: str, tokenizer: Tokenizer = "rouge_score") -> float:
    """ROUGE-L recall in [0, 1]: longest common subsequence / tokens of the answer.

    Equal to rouge_score's RougeScorer(["rougeL"], use_stemmer=True).score(answer, generated)["rougeL"].recall of texts
    in NFC: 0 where either text holds no [a-z0-9] token (an empty or a purely non-Latin answer; not with "unicode").
    """
    common, target, _ = _longest_common(answer, generated, tokenizer)
    return common / target if common else 0.0


def rouge_l_f1(answer: str, generated: str, tokenizer: Tokenizer = "rouge_score") -> float:
    """ROUGE-L F1 in [0, 1], rouge_score's fmeasure."""
    common, target, prediction = _longest_common(answer, generated, tokenizer)
    if not common:
        return 0.0
    recall, precision = common / target, common / prediction
    return 2 * precision * recall / (precision + recall)


def rouge_1_recall(answer: str, generated: str, tokenizer: Tokenizer = "rouge_score") -> float:
    """ROUGE-1 recall in [0, 1]: the answer's tokens that the generation has, each as often as both do, over all."""
    target, prediction = Counter(rouge_tokens(answer, tokenizer)), Counter(rouge_tokens(generated, tokenizer))
    return (target & prediction).total() / target.total() if target else 0.0


def _longest_common(answer: str, generated: str, tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Length of the longest common subsequence of both texts' tokens, and both texts' lengths."""
    target, prediction = rouge_tokens(answer, tokenizer), rouge_tokens(generated, tokenizer)
    number = {token: i for i, token in enumerate(dict.fromkeys(target + prediction))}  # equal tokens, equal integers
    common = LCSseq.similarity([number[t] for t in target], [number[t] for t in prediction])
    return common, len(target), len(prediction)


def exact_match(answer: str, generated: str) -> float:
    """1 where the texts are equal in NFC after strip and case folding, else 0."""
    return float(compared(answer).casefold() == compared(generated).casefold())


def equal_lower(answer: str, generated: str) -> float:
    """1 where the texts are equal in NFC after strip and lower case: LUME's knowledge score (SemEval-2025 Task 4)."""
    return float(compared(answer).lower() == compared(generated).lower())


def contains_answer(answer: str, generated: str) -> float:
    """1 where the short gold answer occurs in the generation, ignoring case (SOUL, src/metrics/Tofu.py), both in NFC.

    An answer that is empty after strip occurs nowhere: 0.
    """
    wanted = compared(answer).casefold()
    return float(bool(wanted) and wanted in compared(generated).casefold())


QA, LUME = {"benchmarks": frozenset({"qa"})}, {"benchmarks": frozenset({"lume"})}
ROUGE = (
    "Lin 2004; rouge_score's rougeL recall with its stemmer (evaluator.tokenizer: its words, or those of any script)"
)

METRICS = (
    row_mean(
        "exact_match",
        "EM (string)",
        "text",
        lambda e: exact_match(e.answer, e.generation.text),
        "equality in NFC after strip and case folding",
        words="exact match",
        **QA,
    ),
    row_mean(
        "rouge_l_recall",
        "ROUGE-L",
        "text",
        lambda e: rouge_l_recall(e.answer, e.generation.text, e.tokenizer),
        ROUGE,
        words="ROUGE-L recall",
        **QA,
    ),
    row_mean(
        "rouge_l_f1",
        "ROUGE-L F1",
        "text",
        lambda e: rouge_l_f1(e.answer, e.generation.text, e.tokenizer),
        "Lin 2004; rouge_score's rougeL fmeasure",
        **QA,
    ),
    row_mean(
        "rouge_1_recall",
        "ROUGE-1",
        "text",
        lambda e: rouge_1_recall(e.answer, e.generation.text, e.tokenizer),
        "Lin 2004; rouge_score's rouge1 recall",
        words="ROUGE-1 recall",
        **QA,
    ),
    row_mean(
        "contains_answer",
        "EM (contains)",
        "text",
        lambda e: contains_answer(e.answer, e.generation.text) if e.short else None,
        "SOUL, src/metrics/Tofu.py",
        words="contains answer",
        better={"retain": "higher"},
        **QA,
    ),
    row_mean(
        "regurgitation",
        "Reg",
        "text",
        lambda e: None if e.question else rouge_l_recall(e.answer, e.generation.text, e.tokenizer),
        f"SemEval-2025 Task 4; {ROUGE}",
        words="regurgitation",
        **LUME,
    ),
    row_mean(
        "knowledge",
        "Kno",
        "text",
        lambda e: equal_lower(e.answer, e.generation.text) if e.question else None,
        "SemEval-2025 Task 4: equality after strip and lower case, in NFC",
        words="knowledge",
        partial=True,  # a text that was stopped is known to be another
        **LUME,
    ),
)
