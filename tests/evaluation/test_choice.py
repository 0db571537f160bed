import sys
from types import SimpleNamespace

import numpy as np
import pytest

from simu.evaluation.choice import choice_point, embedding_similarities, rouge_similarities
from simu.types import UserError


@pytest.mark.parametrize(
    ("similarities", "shared", "souls"),
    [((0.9, 0.1, 0.2), 1, 1), ((0.1, 0.9, 0.2), 0, 0), ((0.5, 0.5, 0.2), 1 / 2, 1), ((0.0,) * 6, 1 / 6, 1)],
)
def test_choice_point(similarities, shared, souls):
    assert choice_point(similarities) == pytest.approx(shared)
    assert choice_point(similarities, shared=False) == souls


def test_an_empty_generation_is_at_chance_by_rouge():
    options = ("It is Rome.", "It is Oslo.", "It is Bern.", "It is Bonn.", "It is Kyiv.", "It is Riga.")
    (found,) = rouge_similarities([""], [options])
    assert choice_point(found) == pytest.approx(1 / 6)
    (found,) = rouge_similarities(["Rome, I believe."], [options])
    assert choice_point(found) == 1


def test_embedding_similarities_are_cosines_and_embed_each_text_once(monkeypatch):
    vectors = {"ask": (1.0, 0.0), "right": (1.0, 1.0), "wrong": (0.0, 2.0), "": (0.0, 0.0)}
    encoded: list[str] = []

    class Encoder:
        def __init__(self, name):
            assert name == "a-model"

        def encode(self, texts, show_progress_bar):
            encoded.extend(texts)
            return np.array([vectors[t] for t in texts], dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Encoder))
    found = embedding_similarities("a-model")(["ask", ""], [("right", "wrong"), ("right", "wrong")])
    np.testing.assert_allclose(found, [[1 / np.sqrt(2), 0.0], [0.0, 0.0]], atol=1e-12)
    assert sorted(encoded) == ["", "ask", "right", "wrong"]


def test_without_the_extra_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"extra 'embedding', or choose rouge_l"):
        embedding_similarities("a-model")
