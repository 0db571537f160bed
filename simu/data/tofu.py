"""`tofu`: TOFU (Maini et al. 2024, arXiv 2401.06121), from the hub or from a folder of JSON Lines.

200 fictitious authors with 20 question/answer pairs each; the full set is retainYY followed by forgetXX, row for row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from simu.data.comparing import Overlap
from simu.data.rows import Percent, Row, numbered, read_rows
from simu.fields import Count, Place, between, component
from simu.store.hub import check_data_set, unreachable_data_set
from simu.types import Example, Splits, UserError, require

REPOSITORY = "locuslab/TOFU"
ROWS_PER_AUTHOR = 20
FULL_ROWS = 4000
EVALUATED_RETAIN_ROWS = 400
"""The first of the full set, of every retainYY alike: retain_perturbed."""

Examples = tuple[Example, ...]


@component
class Tofu:
    """Rows to forget, to retain and to evaluate on, with paraphrased and perturbed answers joined to them.

    Raises UserError for a hub that cannot be reached, a missing file and a bad row, each by name.
    """

    name: str = "tofu"
    path: Place | None = None
    """A folder with one file a hub configuration (forget10.jsonl, .json or .parquet, …); None: the hub."""
    forget: Percent = "10"
    """Percent of the authors to forget: 40, 200 or 400 rows."""
    forget_offset: Annotated[int, between(0, 89)] = 0
    """Forget sets between the forgotten rows and the end of the full set: a search forgets others than the shown run.
    Such rows have no paraphrased or perturbed answers, so no truth ratio and no choice accuracy."""
    retain_offset: Annotated[int, between(0, EVALUATED_RETAIN_ROWS - 1)] = 0
    """Retain rows left out before the first: a search retains others than the shown run."""
    retain_rows: Count | None = None
    """The first N retain rows only, for training and evaluation alike: a subset for slow machines."""
    evaluation_rows: Count | None = None
    """The first N rows of every evaluation split only."""
    overlap: Overlap = "refuse"

    def __post_init__(self) -> None:
        last = (FULL_ROWS - EVALUATED_RETAIN_ROWS) // (40 * int(self.forget)) - 1
        require(
            0 <= self.forget_offset <= last,
            "forget_offset",
            self.forget_offset,
            f"0 to {last} with forget={self.forget}: what retain is evaluated on is not forgotten",
        )

    def __call__(self) -> Splits:
        if self.path is None:
            check_data_set(REPOSITORY)
        percent = int(self.forget)
        forget_name, retain_name, holdout_name = f"forget{percent:02}", f"retain{100 - percent}", f"holdout{percent:02}"
        retain = pairs(self._read(retain_name), retain_name)
        forget = pairs(self._read(forget_name), forget_name, first_author=len(retain) // ROWS_PER_AUTHOR)
        held = pairs(self._read(holdout_name), holdout_name, author="holdout")
        forget = join(forget, self._read(f"{forget_name}_perturbed"))
        evaluated = join(retain, self._read("retain_perturbed"), exhaustive=False)
        retain, forget = move_back((*evaluated, *retain[len(evaluated) :]), forget, self.forget_offset)
        retain, evaluated = (rows[self.retain_offset :][: self.retain_rows] for rows in (retain, evaluated))
        facts = {
            split: short_answers(self._read(f"{split}_perturbed"), split) for split in ("world_facts", "real_authors")
        }
        evaluation = {"forget": forget, "retain": evaluated, "holdout": held, **facts}
        return Splits(
            name=self.name,
            forget=forget,
            retain=retain,
            evaluation={split: rows[: self.evaluation_rows] for split, rows in evaluation.items()},
            background=facts["world_facts"] + facts["real_authors"],
        )

    def _read(self, configuration: str) -> list[Row]:
        if self.path is None:
            return read_hub(configuration)
        return read_rows(Path(self.path), configuration)


def read_hub(configuration: str) -> list[Row]:
    """One configuration of locuslab/TOFU; each has a single split, 'train'."""
    from datasets import load_dataset

    try:
        rows = load_dataset(REPOSITORY, configuration, split="train")
    except Exception as error:  # network, gating, cache: the loader raises a dozen kinds
        raise unreachable_data_set(REPOSITORY, error) from error
    return numbered(rows, f"{REPOSITORY} {configuration}")


def pairs(rows: Sequence[Row], name: str, author: str = "author", first_author: int = 0) -> tuple[Example, ...]:
    """Question and answer by row; `group` is the author, whose number counts through the full set."""
    return tuple(
        Example(
            id=f"{name}/{i}",
            prompt=row.text("question"),
            answer=row.text("answer"),
            group=f"{author}{first_author + i // ROWS_PER_AUTHOR:03d}",
        )
        for i, row in enumerate(rows)
    )


def join(examples: Sequence[Example], perturbed: Sequence[Row], exhaustive: bool = True) -> tuple[Example, ...]:
    """The first len(perturbed) examples with paraphrases and perturbed answers; the files must agree row for row."""
    if len(perturbed) > len(examples) or (exhaustive and len(perturbed) < len(examples)):
        raise UserError(
            f"{perturbed[-1].where} is the last, but there are {len(examples)} rows to join it to "
            f"({examples[0].id} …): the files do not belong together"
        )
    joined = []
    for example, row in zip(examples, perturbed, strict=False):
        if (row.text("question"), row.text("answer")) != (example.prompt, example.answer):
            raise UserError(
                f"{row.where}: question and answer differ from {example.id}'s; "
                "the files must have the same rows in the same order"
            )
        joined.append(
            replace(
                example,
                paraphrased_prompt=row.text("paraphrased_question"),
                paraphrased_answer=row.text("paraphrased_answer"),
                perturbed_answers=row.texts("perturbed_answer"),
            )
        )
    return tuple(joined)


def move_back(retain: Examples, forget: Examples, sets: int) -> tuple[Examples, Examples]:
    """(retain, forget) where as many rows are forgotten, `sets` forget sets before the full set's end."""
    full, end = retain + forget, len(retain) - (sets - 1) * len(forget)
    start = end - len(forget)
    return full[:start] + full[end:], full[start:end]


def short_answers(rows: Sequence[Row], split: str) -> tuple[Example, ...]:
    """World facts and real authors: a short gold answer and perturbed ones, no paraphrase."""
    return tuple(
        Example(
            id=f"{split}/{i}",
            prompt=row.text("question"),
            answer=row.text("answer"),
            group=split,
            perturbed_answers=row.texts("perturbed_answer"),
        )
        for i, row in enumerate(rows)
    )
