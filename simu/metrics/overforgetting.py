"""Collapse made visible: a model that forgot too much repeats itself, never stops, or says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simu.inference.generate import Generation

NGRAM = 4


def repetition_rate(ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of a generation's token n-grams that occurred in it before, in [0, 1): seq-rep-n of Welleck et al.
    (arXiv 1908.04319). Fewer than n tokens: 0."""
    grams = ngrams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(generations: Iterable[Sequence[int]], n: int) -> float:
    """Distinct token n-grams over all token n-grams of a set of generations, in [0, 1] (Li et al. 2016).
    Without any n-gram: 0."""
    grams = [g for ids in generations for g in ngrams(ids, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def ngrams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def text_scores(made: Generation) -> dict[str, float]:
    """What every generated row is scored on, whatever its answer is."""
    return {
        "repetition_rate": repetition_rate(made.ids),
        "generated_tokens": float(len(made.ids)),
        "empty": float(not made.text.strip()),
        "finished": float(made.finished),
    }
