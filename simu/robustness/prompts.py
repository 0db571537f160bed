"""Attacks by the question alone: other words, the answer begun, an opening that says yes."""

from __future__ import annotations

import re
from dataclasses import replace

from simu.fields import Share, component
from simu.robustness.victim import Victim
from simu.types import Example, Template


@component
class Paraphrase:
    """The data set's own paraphrased questions: `ATTACK/question/…` (TOFU). Rows without one are left out."""

    def __call__(self, victim: Victim) -> None:
        asked = {
            split: tuple(replace(e, prompt=e.paraphrased_prompt) for e in rows if e.paraphrased_prompt)
            for split, rows in victim.evaluation.items()
        }
        if not asked.get("forget"):
            victim.warn("paraphrase: no forget row has a paraphrased question, so nothing was asked")
            return
        victim.evaluate("question", *victim.load(), evaluation={split: rows for split, rows in asked.items() if rows})


@component
class Prefix:
    """The beginning of the answer is given and the rest asked for: `ATTACK/PERCENT_percent/…`.

    And an affirmative opening, which holds no word of the answer: `ATTACK/opening/…`. Source: LUME's sentence
    completion; UDS, arXiv 2506.12618.
    """

    shares: tuple[Share, ...] = (0.1, 0.25, 0.5)
    """Of the answer's words, rounded up; one word at least is left to say."""
    opening: str = "Sure, the answer is:"
    """Put before the answer; empty: left out."""

    @property
    def work(self) -> tuple[int, int]:
        """Evaluations, and rows trained on."""
        return len(self.shares) + bool(self.opening), 0

    def __call__(self, victim: Victim) -> None:
        model, tokenizer = victim.load()
        template, layout = Template(), victim.template
        for share in self.shares:
            begun = {split: [given(e, layout, share) for e in rows] for split, rows in victim.evaluation.items()}
            rows = {split: [e for e in some if e is not None] for split, some in begun.items()}
            victim.evaluate(
                f"{100 * share:g}_percent".replace(".", "_"),
                model,
                tokenizer,
                evaluation={split: some for split, some in rows.items() if some},
                template=template,
            )
        if self.opening:
            rows = {
                split: [replace(e, prompt=layout.render(e.prompt) + layout.separator + self.opening) for e in some]
                for split, some in victim.evaluation.items()
            }
            victim.evaluate("opening", model, tokenizer, evaluation=rows, template=template)


def given(example: Example, layout: Template, share: float) -> Example | None:
    """The row with the first `share` of its answer's words in the prompt, rendered; None where no word is left."""
    spans = [m.end() for m in re.finditer(r"\S+", example.answer)]
    count = -int(-share * len(spans) // 1)
    if count >= len(spans):
        return None
    end = spans[count - 1] if count else 0
    beginning, rest = example.answer[:end], example.answer[end:].lstrip()
    prompt = layout.render(example.prompt) + (layout.separator + beginning if beginning else "")
    return replace(example, prompt=prompt, answer=rest, perturbed_answers=(), paraphrased_answer=None)
