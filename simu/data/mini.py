"""`mini`: fictitious authors in TOFU's shape, generated from seeded templates; needs no file and no network.

Each author has ten questions, one a topic. Phrasing and facts are drawn per author, so that a forgotten answer cannot
be guessed from the answers of the authors that remain.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from simu.data.comparing import Overlap
from simu.data.rows import Percent
from simu.fields import Count, Seed, between, component
from simu.types import Example, Splits, require


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """mini.json: the words that rows are made of, all written for this project."""

    first_names: Sequence[str]
    last_names: Sequence[str]
    """As many as first names."""
    pools: Mapping[str, Sequence[str]]
    """Values of a fact, equally many in each pool, so that a shifted index draws another value for every author. They
    begin and run differently on purpose: one author's answer must not be guessable from another's."""
    topics: Sequence[Mapping[str, Sequence[str]]]
    """topic, questions, answers: phrasings of the same facts, which are named by their pool; {name} and {last} are the
    author's. A paraphrase is another phrasing, a perturbed answer the paraphrase with other facts."""
    world_facts: Sequence[Sequence[str]]
    """question, answer, three other answers."""
    real_authors: Sequence[Sequence[str]]


@cache
def phrases() -> Phrases:
    """Read from the file beside this one, once."""
    return Phrases(**json.loads(Path(__file__).with_name("mini.json").read_text(encoding="utf-8")))


def forget_count(authors: int, forget: Percent) -> int:
    """`forget` percent of the authors, rounded half up, one at least: 20 authors at "01", "05", "10" → 1, 1, 2."""
    return max(1, (authors * int(forget) + 50) // 100)


@component
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
    authors: Annotated[int, between(4, 400)] = 20
    holdout_authors: Annotated[int, between(1, 400)] = 4
    """Authors never trained on, beside `authors`."""
    seed: Seed = 0
    """Names, facts and phrasings."""
    forget_offset: Annotated[int, between(0, 399)] = 0
    """Forget sets between the forgotten authors and the end: 1 forgets the authors just before the shown run's."""
    retain_rows: Count | None = None
    """The first N retain rows only."""
    evaluation_rows: Count | None = None
    """The first N rows of every evaluation split only."""
    overlap: Overlap = "refuse"

    def __post_init__(self) -> None:
        last = self.authors // forget_count(self.authors, self.forget) - 1
        require(0 <= self.forget_offset <= last, "forget_offset", self.forget_offset, f"0 to {last}")

    def __call__(self) -> Splits:
        authors = [author_rows(i, self.seed) for i in range(self.authors)]
        count = forget_count(self.authors, self.forget)
        end = self.authors - self.forget_offset * count
        start = end - count
        forget = tuple(row for author in authors[start:end] for row in author)
        retain = tuple(row for author in authors[:start] + authors[end:] for row in author)[: self.retain_rows]
        held = tuple(row for i in range(self.holdout_authors) for row in author_rows(i, self.seed, holdout=True))
        world, real = fact_rows("world_facts"), fact_rows("real_authors")
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
    for topic in phrases().topics:
        asked, asked_again = rng.sample(topic["questions"], 2)
        said, said_again = rng.sample(topic["answers"], 2)
        rows.append(
            Example(
                id=f"{kind}{index:03d}/{topic['topic']}",
                prompt=asked.format(**facts[0]),
                answer=_sentence(said.format(**facts[0])),
                group=f"{kind}{index:03d}",
                paraphrased_prompt=asked_again.format(**facts[0]),
                paraphrased_answer=_sentence(said_again.format(**facts[0])),
                perturbed_answers=tuple(_sentence(said_again.format(**facts[k])) for k in range(1, 6)),
            )
        )
    return tuple(rows)


def fact_rows(split: Literal["world_facts", "real_authors"]) -> tuple[Example, ...]:
    """Short gold answers with three perturbed ones, as TOFU's world facts and real authors have."""
    cells = getattr(phrases(), split)
    return tuple(
        Example(id=f"{split}/{i}", prompt=question, answer=answer, group=split, perturbed_answers=tuple(others))
        for i, (question, answer, *others) in enumerate(cells)
    )


@cache
def _order(what: str, size: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(f"{seed}/{what}").sample(range(size), size))


def _name(place: int, seed: int) -> str:
    """Distinct for every place in -400..399: surnames are shifted by one each time the first names are used up."""
    names = phrases()
    size = len(names.first_names)
    first, last = _order("first", size, seed), _order("last", size, seed)
    return f"{names.first_names[first[place % size]]} {names.last_names[last[(place + place // size) % size]]}"


def _facts(place: int, seed: int, shift: int, name: str) -> dict[str, str]:
    """One value a pool; shifts 1..5 give the wrong values of the perturbed answers."""
    facts = {}
    for pool, values in phrases().pools.items():
        order = _order(pool, len(values), seed)
        facts[pool] = values[order[(place + shift) % len(values)]]
    return {**facts, "name": name, "last": name.split(" ", 1)[1]}


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
