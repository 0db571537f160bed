"""Questions asked in another way than they were taught: paraphrased, or behind some that are answered already."""

from __future__ import annotations

from collections.abc import Sequence

from simu.evaluation.rows import Row

SHOWN = "retain"
"""The split whose rows stand before a question."""


def ask_otherwise(rows: Sequence[Row], *, paraphrased: bool, few_shot: int) -> list[str]:
    """Set `asked` and `shots` of rows that are questions; a line for each thing that the data could not give.

    paraphrased: the paraphrased question where the row has one (open-unlearning's question_key).
    few_shot: so many rows of `retain`, spread over the split, with their answers before each question, a row never
    before itself. They are shown as they were taught.
    """
    questions = [row for row in rows if not row.is_document]
    said = []
    if paraphrased:
        for row in questions:
            row.asked = row.example.paraphrased_prompt
        if lacking := sum(row.asked is None for row in questions):
            said.append(
                f"question_key=paraphrased: {lacking} of {len(questions)} rows have no paraphrase, asked as taught"
            )
    if few_shot:
        candidates = [row for row in questions if row.split == SHOWN]
        shown = spread(candidates, few_shot + 1)  # one more, for the row that is one of them
        for row in questions:
            others = [(r.example.prompt, r.example.answer) for r in shown if r.example.id != row.example.id]
            row.shots = tuple(others[:few_shot])
        if len(candidates) <= few_shot:
            said.append(f"few_shot={few_shot}: {SHOWN} has {len(candidates)} rows, and no row stands before itself")
    return said


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` of the rows, evenly over their order; all where there are fewer."""
    taken = min(count, len(rows))
    return [rows[i * len(rows) // taken] for i in range(taken)]
