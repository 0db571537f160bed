import pytest

from simu.inference.generate import Generation
from simu.metrics.evidence import TextEvidence, row_scores
from simu.metrics.overforgetting import METRICS, distinct_n, repetition_rate
from simu.types import Example


@pytest.mark.parametrize(
    ("ids", "rate"),
    [
        ((1, 2, 3, 4, 5, 6), 0.0),
        ((7,) * 10, 6 / 7),  # seven 4-grams, one distinct
        ((1, 2, 1, 2, 1, 2, 1), 2 / 4),  # 1212 2121 1212 2121
        ((1, 1, 1), 0.0),
        ((), 0.0),
    ],
)
def test_repetition_rate(ids, rate):
    assert repetition_rate(ids) == pytest.approx(rate)


def test_distinct_n_is_over_the_whole_set():
    generated = [(1, 2, 3), (1, 2), (), (5,)]
    assert distinct_n(generated, 1) == pytest.approx(4 / 6)
    assert distinct_n(generated, 2) == pytest.approx(2 / 3)  # 12 23 12
    assert distinct_n([()], 1) == 0.0


def scores(generation: Generation, partial: bool = False) -> dict[str, float]:
    row = Example(id="forget/0", prompt="Who?", answer="Ada.")
    evidence = TextEvidence(benchmark="any", split="forget", example=row, generation=generation)
    return row_scores(METRICS, "text", evidence, partial=partial)


def test_row_scores():
    empty = Generation(ids=(220,), text=" ", finished=True)
    assert scores(empty) == {"repetition_rate": 0.0, "generated_tokens": 1.0, "empty": 1.0, "finished": 1.0}
    endless = Generation(ids=(7,) * 10, text="la" * 10, finished=False)
    assert scores(endless) == {
        "repetition_rate": pytest.approx(6 / 7),
        "generated_tokens": 10,
        "empty": 0.0,
        "finished": 0.0,
    }


def test_a_text_cut_short_says_nothing_of_collapse():
    assert scores(Generation(ids=(5,), text="No", finished=False, truncated=True), partial=True) == {}
