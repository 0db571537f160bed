"""Collapse made visible: a model that forgot too much repeats itself, never stops, or says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from simu.metrics.metric import Better, Metric, Role, row_mean

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


WELLECK = "seq-rep-4 (Welleck et al., arXiv 1908.04319)"
LESS: Mapping[Role, Better] = {"forget": "lower", "retain": "lower"}
"""Of what a collapsed model does, on any row."""
HALF = 0.5
"""Most of what is generated repeats itself, most answers never end, or most are empty: our line."""


def _distinct(n: int) -> Metric:
    return Metric(
        key=f"distinct_{n}",
        label=f"Distinct-{n}",
        better={},
        bounds=(0, 1),
        aggregate="whole",
        source="Li et al. 2016 (arXiv 1510.03055)",
    )


METRICS = (
    row_mean(
        "repetition_rate",
        "Repetition",
        "text",
        lambda e: repetition_rate(e.generation.ids),
        WELLECK,
        better=LESS,
        collapse=HALF,
    ),
    row_mean(
        "generated_tokens",
        "New tokens",
        "text",
        lambda e: float(len(e.generation.ids)),
        "count, without EOS",
        better={},
        bounds=(0, float("inf")),
    ),
    row_mean(
        "empty",
        "Empty",
        "text",
        lambda e: float(not e.generation.text.strip()),
        "nothing but white space",
        better=LESS,
        collapse=HALF,
    ),
    row_mean(
        "finished",
        "Finished",
        "text",
        lambda e: float(e.generation.finished),
        "EOS within max_new_tokens",
        better={"forget": "higher", "retain": "higher"},
        collapse=HALF,
    ),
    _distinct(1),
    _distinct(2),
)
