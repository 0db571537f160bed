"""Answers begun, other words: what is asked, by hand."""

from __future__ import annotations

from dataclasses import replace

from simu.robustness.prompts import Paraphrase, Prefix, given
from simu.types import Example, Template

LAYOUT = Template(prompt="Q: {prompt}\nA:", separator=" ")
ROW = Example(id="a", prompt="Who?", answer="Ann  Lee wrote it, in 1990.", perturbed_answers=("x",))


def test_the_first_words_are_given_and_the_rest_is_asked():
    begun = given(ROW, LAYOUT, 0.25)  # 6 words: 1.5, so 2
    assert (begun.prompt, begun.answer) == ("Q: Who?\nA: Ann  Lee", "wrote it, in 1990.")
    assert begun.perturbed_answers == ()
    assert given(ROW, LAYOUT, 0.5).answer == "it, in 1990."
    assert given(ROW, LAYOUT, 0.0).prompt == "Q: Who?\nA:"
    assert given(ROW, LAYOUT, 1.0) is None
    assert given(replace(ROW, answer="Yes"), LAYOUT, 0.1) is None


class Recorder:
    """A victim that keeps what it is asked."""

    template = LAYOUT

    def __init__(self, rows):
        self.evaluation, self.asked, self.warnings = {"forget": rows, "retain": rows}, {}, []

    def load(self):
        return "model", "tokenizer"

    def evaluate(self, setting, model, tokenizer, *, evaluation=None, template=None):
        self.asked[setting] = (evaluation["forget"], template)

    def warn(self, line):
        self.warnings.append(line)


def test_settings_of_the_prefix_attack():
    short = replace(ROW, id="b", answer="Yes")
    victim = Recorder((ROW, short))
    Prefix(shares=(0.25, 0.5), opening="Sure:")(victim)
    assert list(victim.asked) == ["25_percent", "50_percent", "opening"]
    rows, template = victim.asked["25_percent"]
    assert [row.id for row in rows] == ["a"]  # of one word nothing would be left to say
    assert template == Template()
    rows, _ = victim.asked["opening"]
    assert [(row.prompt, row.answer) for row in rows] == [
        ("Q: Who?\nA: Sure:", ROW.answer),
        ("Q: Who?\nA: Sure:", "Yes"),
    ]


def test_paraphrased_questions_where_there_are_any():
    other = replace(ROW, id="b", paraphrased_prompt="By whom?")
    victim = Recorder((ROW, other))
    Paraphrase()(victim)
    rows, template = victim.asked["question"]
    assert [(row.id, row.prompt) for row in rows] == [("b", "By whom?")]
    assert template is None
    none = Recorder((ROW,))
    Paraphrase()(none)
    assert not none.asked
    assert none.warnings == ["paraphrase: no forget row has a paraphrased question, so nothing was asked"]
