import pytest
from rouge_score.rouge_scorer import RougeScorer

from simu.metrics.text import rouge_1_recall, rouge_l_f1

ANSWER = "the cat sat on the mat"


def test_by_hand():
    """Of six tokens the, cat, the and mat are there: "the" twice in the answer, three times in the other."""
    said = "the mat the cat the"
    assert rouge_1_recall(ANSWER, said) == pytest.approx(4 / 6)
    # longest common subsequence "the cat the", of six and of five tokens: 2 · (3/5) · (3/6) / (3/5 + 3/6)
    assert rouge_l_f1(ANSWER, said) == pytest.approx(0.6 / 1.1)
    assert (rouge_1_recall("", said), rouge_1_recall(ANSWER, ""), rouge_l_f1(ANSWER, "")) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("said", ["Cats were sitting on mats", "the the the", "nothing", ANSWER])
def test_as_rouge_score(said):
    theirs = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(ANSWER, said)
    assert rouge_1_recall(ANSWER, said) == pytest.approx(theirs["rouge1"].recall)
    assert rouge_l_f1(ANSWER, said) == pytest.approx(theirs["rougeL"].fmeasure)
