import pytest

from simu.inference.generate import Generation
from simu.metrics.overforgetting import distinct_n, repetition_rate, text_scores


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
    said = [(1, 2, 3), (1, 2), (), (5,)]
    assert distinct_n(said, 1) == pytest.approx(4 / 6)
    assert distinct_n(said, 2) == pytest.approx(2 / 3)  # 12 23 12
    assert distinct_n([()], 1) == 0.0


def test_text_scores():
    empty = Generation(ids=(220,), text=" ", finished=True)
    assert text_scores(empty) == {"repetition_rate": 0.0, "generated_tokens": 1.0, "empty": 1.0, "finished": 1.0}
    endless = Generation(ids=(7,) * 10, text="la" * 10, finished=False)
    assert text_scores(endless)["empty"] == 0.0
    assert text_scores(endless)["finished"] == 0.0
    assert text_scores(endless)["generated_tokens"] == 10
