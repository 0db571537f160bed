"""Answers that no model can be seen to know: what a reader of the figures is told beside them.

One look at each row: decode(encode(answer)) against the answer, its length against what may be generated, and its words
against those that ROUGE reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from simu.data.comparing import compared
from simu.data.encoding import answer_ids, prompt_ids, text_of
from simu.evaluation.rows import Row
from simu.metrics.text import Tokenizer, unseen
from simu.types import Template

WIDTH = 40
"""Characters shown of a text that comes back as another."""


def warnings_of(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    rows: Sequence[Row],
    *,
    generated: Collection[str],
    max_new_tokens: int,
    window: int | None,
    words: Tokenizer,
) -> list[str]:
    """One line for each kind of row whose text scores are low whatever the model knows.

    generated: splits that are scored by a generated text. window: tokens that the model can read. words: ROUGE's.
    """
    asked = [row for row in rows if row.split in generated and not row.is_document]
    found = (
        changed(tokenizer, template, rows),
        too_long(tokenizer, template, asked, max_new_tokens, window),
        invisible(asked) if words == "rouge_score" else None,
    )
    return [line for line in found if line]


def changed(tokenizer: PreTrainedTokenizerBase, template: Template, rows: Iterable[Row]) -> str | None:
    """Answers that the tokenizer does not give back, in the form in which texts are compared."""
    answers = {row.example.answer: row for row in rows}
    back = {a: text_of(tokenizer, answer_ids(tokenizer, template, a)) for a in answers}
    lost = [a for a, text in back.items() if compared(text) != compared(a)]
    if not lost:
        return None
    written, came = differing(compared(lost[0]), compared(back[lost[0]]))
    return (
        f"{len(lost)} of {len(answers)} answers do not come back from the tokenizer as they are written, so that no "
        f"generation can equal them: of {answers[lost[0]].example.id} {written!r} comes back as {came!r}"
    )


def too_long(
    tokenizer: PreTrainedTokenizerBase, template: Template, rows: Sequence[Row], allowed: int, window: int | None
) -> str | None:
    """Answers of more tokens than may be generated, or than fit behind their prompt into the model's context."""
    long: list[tuple[Row, int]] = []
    for row in rows:
        count = len(answer_ids(tokenizer, template, row.example.answer))
        behind = len(prompt_ids(tokenizer, template, row.prompt, row.shots))
        room = allowed if window is None else min(allowed, max(1, window + 1 - behind))
        if count > room:
            long.append((row, count))
    if not long:
        return None
    row, count = max(long, key=lambda found: found[1])
    return (
        f"{len(long)} of {len(rows)} answers are longer than can be generated (evaluator.max_new_tokens={allowed}, "
        f"context {window or 'unknown'}; {row.example.id} has {count} tokens): they cannot match, whatever the model "
        "knows; finished says how many texts came to an end"
    )


def invisible(rows: Sequence[Row]) -> str | None:
    """Answers of which ROUGE reads less than half."""
    blind = [row for row in rows if unseen(row.example.answer)]
    if not blind:
        return None
    return (
        f"ROUGE reads a–z and 0–9 alone and cannot see {len(blind)} of {len(rows)} answers "
        f"({100 * len(blind) / len(rows):.0f} %, {blind[0].example.id} …); evaluator.tokenizer=unicode reads any script"
    )


def differing(one: str, other: str) -> tuple[str, str]:
    """Both texts from a little before the place where they part, cut to a line."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(0, at - WIDTH // 4)
    return one[start : start + WIDTH], other[start : start + WIDTH]
