"""`mini`: fictitious authors in TOFU's shape, generated from seeded templates; needs no file and no network.

Each author has ten questions, one a topic. Phrasing and facts are drawn per author, so that a forgotten answer cannot
be guessed from the answers of the authors that remain.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from simu.data.mini_text import FIRST_NAMES, LAST_NAMES, POOLS, REAL_AUTHORS, TOPICS, WORLD_FACTS
from simu.data.rows import Percent
from simu.types import Example, Splits, require

POOL_SIZE = len(POOLS["town"])
ROWS_PER_AUTHOR = len(TOPICS)
MAX_AUTHORS = 400


def forget_count(authors: int, forget: Percent) -> int:
    """`forget` percent of the authors, rounded half up, one at least: 20 authors at "01", "05", "10" → 1, 1, 2."""
    return max(1, (authors * int(forget) + 50) // 100)


@dataclass(frozen=True, kw_only=True)
class Mini:
    """Fictitious authors: the last `forget` percent are unlearnt, as TOFU's forgetXX are the last rows of its full set.

    Two runs differing only in `forget_offset` know the same authors and forget others: a search for
    hyper-parameters uses other forget authors than the run that is shown.
    """

    name: str = "mini"
    path: None = None
    """No file: every data option has the key, so that sweeps compose over any of them."""
    forget: Percent = "10"
    """Percent of the authors, rounded, one at least."""
    authors: int = 20
    holdout_authors: int = 4
    """Authors never trained on, beside `authors`."""
    seed: int = 0
    """Names, facts and phrasings."""
    forget_offset: int = 0
    """Forget sets between the forgotten authors and the end: 1 forgets the authors just before the shown run's."""
    retain_rows: int | None = None
    """The first N retain rows only."""
    evaluation_rows: int | None = None
    """The first N rows of every evaluation split only."""

    def __post_init__(self) -> None:
        require(4 <= self.authors <= MAX_AUTHORS, "authors", self.authors, f"4 to {MAX_AUTHORS}")
        require(
            1 <= self.holdout_authors <= MAX_AUTHORS, "holdout_authors", self.holdout_authors, f"1 to {MAX_AUTHORS}"
        )
        last = self.authors // forget_count(self.authors, self.forget) - 1
        require(0 <= self.forget_offset <= last, "forget_offset", self.forget_offset, f"0 to {last}")
        for field in ("retain_rows", "evaluation_rows"):
            value = getattr(self, field)
            require(value is None or value >= 1, field, value, "a count ≥ 1, or null for all")

    def __call__(self) -> Splits:
        authors = [author_rows(i, self.seed) for i in range(self.authors)]
        count = forget_count(self.authors, self.forget)
        end = self.authors - self.forget_offset * count
        start = end - count
        forget = tuple(row for author in authors[start:end] for row in author)
        retain = tuple(row for author in authors[:start] + authors[end:] for row in author)[: self.retain_rows]
        held = tuple(row for i in range(self.holdout_authors) for row in author_rows(i, self.seed, holdout=True))
        world, real = fact_rows("world_facts", WORLD_FACTS), fact_rows("real_authors", REAL_AUTHORS)
        evaluation = {"forget": forget, "retain": retain, "holdout": held, "world_facts": world, "real_authors": real}
        return Splits(
            name=self.name,
            forget=forget,
            retain=retain,
            evaluation={split: rows[: self.evaluation_rows] for split, rows in evaluation.items()},
            background=world + real,
        )


def author_rows(index: int, seed: int, holdout: bool = False) -> tuple[Example, ...]:
    """The ten rows of one author. Trained authors take pool values from the front of a seeded order, held-out ones from
    its end, so that at the default sizes no two authors share a value."""
    kind = "holdout" if holdout else "author"
    place = -1 - index if holdout else index
    name = _name(place, seed)
    rng = random.Random(f"{seed}/{kind}/{index}")
    facts = [_facts(place, seed, shift, name) for shift in range(6)]
    rows = []
    for topic, questions, answers in TOPICS:
        asked, asked_again = rng.sample(questions, 2)
        said, said_again = rng.sample(answers, 2)
        rows.append(
            Example(
                id=f"{kind}{index:03d}/{topic}",
                prompt=asked.format(**facts[0]),
                answer=_sentence(said.format(**facts[0])),
                group=f"{kind}{index:03d}",
                paraphrased_prompt=asked_again.format(**facts[0]),
                paraphrased_answer=_sentence(said_again.format(**facts[0])),
                perturbed_answers=tuple(_sentence(said_again.format(**facts[k])) for k in range(1, 6)),
            )
        )
    return tuple(rows)


def fact_rows(split: str, lines: tuple[str, ...]) -> tuple[Example, ...]:
    """Short gold answers with three perturbed ones, as TOFU's world facts and real authors have."""
    cells = [line.split("|") for line in lines]
    return tuple(
        Example(id=f"{split}/{i}", prompt=question, answer=answer, group=split, perturbed_answers=tuple(others))
        for i, (question, answer, *others) in enumerate(cells)
    )


@cache
def _order(what: str, size: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{seed}/{what}").sample(range(size), size))


def _name(place: int, seed: int) -> str:
    """Distinct for every place in -400..399: surnames are shifted by one each time the first names are used up."""
    size = len(FIRST_NAMES)
    first, last = _order("first", size, seed), _order("last", size, seed)
    return f"{FIRST_NAMES[first[place % size]]} {LAST_NAMES[last[(place + place // size) % size]]}"


def _facts(place: int, seed: int, shift: int, name: str) -> dict[str, str]:
    """One value a pool; shifts 1..5 give the wrong values of the perturbed answers."""
    facts = {pool: values[_order(pool, POOL_SIZE, seed)[(place + shift) % POOL_SIZE]] for pool, values in POOLS.items()}
    return {**facts, "name": name, "last": name.split(" ", 1)[1]}


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
