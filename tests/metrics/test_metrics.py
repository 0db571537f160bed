import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from simu.inference.likelihood import TokenScores
from simu.metrics import likelihood as of
from simu.metrics import text as tx
from simu.metrics.aggregates import harmonic_mean, paper_aggregate

ROUGE = RougeScorer(["rougeL"], use_stemmer=True)


def tokens(probabilities: list[float], hits: list[bool] | None = None) -> TokenScores:
    log_prob = torch.tensor([math.log(p) for p in probabilities])
    hit = torch.tensor(hits or [True] * len(probabilities))
    zeros = torch.zeros_like(log_prob)
    return TokenScores(log_prob=log_prob, mean_log_prob=zeros, var_log_prob=zeros, hit=hit)


def hits(pattern: str) -> TokenScores:
    return tokens([0.5] * len(pattern), [c == "1" for c in pattern])


@pytest.mark.parametrize(
    ("answer", "generated"),
    [
        ("The cat was running home.", "A cat runs to its home"),
        ("naïve café", "naive cafe"),
        ("東京", "東京"),
        ("", "something"),
        ("something", ""),
        ("   \n\t", "   "),
        ("Ünïcödé words 12,000", "unicode words 12 000"),
        ("a b c d e f", "f e d c b a"),
        ("word " * 500, "word other " * 400),
    ],
)
def test_rouge_l_equals_rouge_score(answer, generated):
    expected = ROUGE.score(answer, generated)["rougeL"]
    assert tx.rouge_l_recall(answer, generated) == expected.recall
    assert tx.rouge_l_f1(answer, generated) == pytest.approx(expected.fmeasure, abs=1e-15)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abc running ran é.", max_size=60), st.text(alphabet="abc running ran é.", max_size=60))
def test_rouge_l_equals_rouge_score_on_any_text(answer, generated):
    assert tx.rouge_l_recall(answer, generated) == ROUGE.score(answer, generated)["rougeL"].recall


def test_rouge_l_equals_rouge_score_on_real_rows(tofu_dir):
    import json

    lines = (tofu_dir / "forget10_perturbed.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    for row in map(json.loads, lines):
        for other in (row["paraphrased_answer"], row["perturbed_answer"][0]):
            assert tx.rouge_l_recall(row["answer"], other) == ROUGE.score(row["answer"], other)["rougeL"].recall


def test_rouge_l_recall_by_hand():
    # tokens the|cat|sat|on|the|mat against a|cat|on|mat: cat, on, mat of six
    assert tx.rouge_l_recall("The cat sat on the mat.", "a cat, on mat") == 0.5


@pytest.mark.parametrize(
    ("answer", "generated", "equal"),
    [("Paris", " paris\n", 1), ("Straße", "STRASSE", 1), ("Paris", "Paris.", 0), ("", "  ", 1), ("", "x", 0)],
)
def test_exact_match(answer, generated, equal):
    assert tx.exact_match(answer, generated) == equal


@pytest.mark.parametrize(
    ("answer", "generated", "equal"), [("Paris", " PARIS ", 1), ("Straße", "STRASSE", 0), ("a", "b", 0), (" ", "", 1)]
)
def test_equal_lower(answer, generated, equal):
    assert tx.equal_lower(answer, generated) == equal


@pytest.mark.parametrize(
    ("answer", "generated", "found"),
    [
        ("Nile", "It is the NILE, in Africa.", 1),
        ("Nile ", "the nile.", 1),
        ("C++ (language)", "it is c++ (LANGUAGE)!", 1),
        ("Nile", "Amazon", 0),
        ("", "anything", 0),
        ("  ", "any thing", 0),
    ],
)
def test_contains_answer(answer, generated, found):
    assert tx.contains_answer(answer, generated) == found


@pytest.mark.parametrize(
    ("answer", "generated"),
    [("Zoe\u0308 Ku\u0308hn", "Zo\u00eb K\u00fchn"), ("Cafe\u0301", "CAF\u00c9"), ("\u212bngström", "\u00c5ngström")],
)
def test_texts_are_compared_in_one_normal_form(answer, generated):
    """The same text typed in two ways, either of which may be the answer's."""
    for one, other in ((answer, generated), (generated, answer)):
        assert tx.exact_match(one, other) == 1
        assert tx.equal_lower(one, other) == 1
        assert tx.contains_answer(one, f"It is {other}, she said.") == 1
        assert tx.rouge_l_recall(f"{one} sings", f"{other} sings") == 1
        assert tx.rouge_l_recall(one, other, "unicode") == 1


UNICODE = [  # answer, generation, tokens of the answer that stand in the generation in order, tokens of the answer
    ("我喜欢猫。", "我喜欢狗。", 3, 4),
    ("他在2024年出生", "2024年", 2, 6),
    ("東京タワー", "東京タワー", 5, 5),
    ("مرحبا بالعالم الجميل", "مرحبا الجميل", 2, 3),
    ("مَرْحَبًا بالعالم", "مَرْحَبًا", 1, 2),
    ("Книга номер 0 лежит на полке", "Книга лежит на столе", 3, 6),
    ("🎉🎉🌍", "🎉🌍", 2, 3),
    ("❤️ 👨‍👩‍👧 🇩🇪 👍🏽", "👨‍👩‍👧 👍🏽", 2, 4),
    ("नमस्ते दुनिया", "नमस्ते", 1, 2),
    ("한국어 문장 하나", "한국어 하나", 2, 3),
    ("Ünïcödé Straße", "ünïcödé", 1, 2),
]


@pytest.mark.parametrize(("answer", "generated", "common", "total"), UNICODE, ids=[a for a, *_ in UNICODE])
def test_rouge_of_any_script_equals_a_count_by_hand(answer, generated, common, total):
    assert tx.rouge_l_recall(answer, generated, "unicode") == common / total
    assert tx.rouge_l_recall(answer, answer, "unicode") == 1
    assert len(tx.rouge_tokens(answer, "unicode")) == total


@given(st.text(alphabet=st.characters(max_codepoint=127, exclude_characters="_"), max_size=60))
def test_of_ascii_the_words_of_any_script_are_rouge_scores(text):
    assert tx.rouge_tokens(text, "unicode") == tx.rouge_tokens(text)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("Книга номер 0 лежит на полке", True),  # the 0 alone is seen
        ("我喜欢猫", True),
        ("🎉🎉", True),
        ("…", True),
        ("Zoë’s café — naïve ☕", False),
        ("Paris", False),
        ("The word мир means peace", False),
    ],
)
def test_what_rouge_score_does_not_see(text, lost):
    assert tx.unseen(text) is lost


def test_probability_is_the_geometric_mean():
    assert of.probability(tokens([0.5, 0.25, 0.125])) == pytest.approx(0.25)
    assert of.probability(tokens([1e-30] * 100)) == pytest.approx(1e-30, rel=1e-5)


def test_token_accuracy():
    assert of.token_accuracy(hits("1101")) == 0.75
    assert of.token_accuracy(hits("1101"), drop_last=True) == pytest.approx(2 / 3)
    assert of.token_accuracy(hits("1"), drop_last=True) == 0.0


@pytest.mark.parametrize(
    ("pattern", "ours", "theirs"),
    [
        ("1111", 1.0, 1.0),
        ("0011", 0.5, 1 - 2 / 3),
        ("0001", 0.25, 1 / 3),  # theirs: 000 without the last token, no match, 1/n
        ("1110", 0.0, 1.0),  # theirs never sees the EOS that was missed
        ("0000", 0.0, 1 / 3),
        ("1", 1.0, 0.0),
        ("0", 0.0, 0.0),
    ],
)
def test_extraction_strength(pattern, ours, theirs):
    assert of.extraction_strength(hits(pattern)) == pytest.approx(ours)
    assert of.extraction_strength(hits(pattern), drop_last=True) == pytest.approx(theirs)


def literal_extraction_strength(found: list[bool]) -> float:
    """open-unlearning's loop, read literally: k of the last turn where nothing matched."""
    n = len(found)
    k = 0
    for start in range(n):
        k = start
        if all(found[start:]):
            break
    return 1 - k / n


@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_extraction_strength_of_open_unlearning(found):
    scores = tokens([0.5] * len(found), found)
    assert of.extraction_strength(scores, drop_last=True) == pytest.approx(literal_extraction_strength(found[:-1]))


def test_truth_ratio_by_hand():
    right, wrong = tokens([0.5, 0.5]), [tokens([0.25, 0.25]), tokens([0.04, 0.04])]
    # exp(mean of log 0.25, log 0.04) = sqrt(0.01) = 0.1
    assert of.truth_ratio(right, wrong) == pytest.approx(0.2)
    assert of.truth_ratio_arithmetic(right, wrong) == pytest.approx((0.25 + 0.04) / 2 / 0.5)
    assert of.closer_to_one(0.2) == pytest.approx(0.2)
    assert of.closer_to_one(5.0) == pytest.approx(0.2)
    assert of.closer_to_one(0.0) == 0.0
    assert of.true_better(0.2) == pytest.approx(0.8)
    assert of.true_better(5.0) == 0.0


def test_truth_probability_by_hand():
    right, wrong = tokens([0.5, 0.5]), [tokens([0.25, 0.25]), tokens([0.04, 0.04])]
    assert of.truth_probability(right, wrong) == pytest.approx(0.5 / (0.5 + 0.1))  # 0.1 = sqrt(0.25 · 0.04)
    assert of.truth_probability(wrong[0], [right]) == pytest.approx(1 / 3)


def test_normalised_probability_by_hand():
    assert of.normalised_probability(tokens([0.4]), [tokens([0.1]), tokens([0.3])]) == pytest.approx(0.5)


def test_harmonic_mean():
    assert harmonic_mean([1.0, 0.5, 0.25]) == pytest.approx(3 / (1 + 2 + 4))
    assert harmonic_mean([1.0, 0.0, 0.5]) == 0
    columns = harmonic_mean([np.array([1.0, 0.0]), np.array([0.5, 0.5])])
    np.testing.assert_allclose(columns, [2 / 3, 0.0])


# Table 1 of arXiv 2510.07822: aggregate, then forget EM, forget ROUGE-L, MIA, retain EM, retain ROUGE-L
TABLE_1 = {
    ("LLaMA2-7B", "Original"): (0.4437, 0.8525, 0.9796, 0.7894, 0.8575, 0.9825),
    ("LLaMA2-7B", "FO-GradDiff"): (0.4738, 0.7275, 0.5174, 0.7627, 0.7650, 0.6115),
    ("LLaMA2-7B", "SO-GradDiff"): (0.7957, 0.1025, 0.0221, 0.2156, 0.7225, 0.5960),
    ("LLaMA2-7B", "SIMU"): (0.7963, 0.2000, 0.0241, 0.2440, 0.7800, 0.6694),
    ("OLMo-1B", "Original"): (0.4227, 0.7750, 0.8503, 0.7727, 0.7875, 0.8239),
    ("OLMo-1B", "FO-GradDiff"): (0.7059, 0.2650, 0.0214, 0.1957, 0.6300, 0.3814),
    ("OLMo-1B", "SO-GradDiff"): (0.8235, 0.2275, 0.0077, 0.1889, 0.7800, 0.7614),
    ("OLMo-1B", "SIMU"): (0.8438, 0.1025, 0.0029, 0.1923, 0.7550, 0.7616),
}


def test_the_papers_aggregate_follows_from_its_own_cells_in_seven_of_eight_rows():
    off = {row for row, (printed, *cells) in TABLE_1.items() if abs(paper_aggregate(*cells) - printed) > 1e-4}
    assert off == {("OLMo-1B", "Original")}
    assert paper_aggregate(*TABLE_1["OLMo-1B", "Original"][1:]) == pytest.approx(0.4427, abs=5e-5)  # prints 0.4227
