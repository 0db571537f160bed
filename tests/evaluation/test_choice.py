import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from simu.config import build_run, conf_dir
from simu.evaluation.choice import embedding_similarities
from simu.metrics.choice import choice_point, rouge_similarities
from simu.types import UserError

CPU = torch.device("cpu")


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


@pytest.fixture
def encoder_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def test_embedding_similarities_are_cosines_and_embed_each_text_once(monkeypatch, encoder_folder):
    vectors = {"ask": (1.0, 0.0), "right": (1.0, 1.0), "wrong": (0.0, 2.0), "": (0.0, 0.0)}
    encoded: list[str] = []

    class Encoder:
        def __init__(self, name, device, model_kwargs):
            assert (name, device, model_kwargs) == (encoder_folder, "cpu", {"use_safetensors": True})

        def encode(self, texts, show_progress_bar):
            encoded.extend(texts)
            return np.array([vectors[t] for t in texts], dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Encoder))
    similar = embedding_similarities(encoder_folder, CPU)
    found = similar(["ask", ""], [("right", "wrong"), ("right", "wrong")])
    np.testing.assert_allclose(found, [[1 / np.sqrt(2), 0.0], [0.0, 0.0]], atol=1e-12)
    assert sorted(encoded) == ["", "ask", "right", "wrong"]


def test_without_the_extra_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"extra 'embedding', or choose evaluator.choice_scorer=rouge_l"):
        embedding_similarities("a-model", CPU)


def test_an_encoder_that_cannot_be_had_is_one_line_before_anything_is_generated(monkeypatch, encoder_folder):
    """Offline without a cached encoder, and a folder that holds none."""

    def refuse(*_, **__):
        raise OSError("no file\nnamed model.safetensors")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=refuse))
    for name, why in (
        ("sentence-transformers/none-such", "not in the local hub cache and HF_HUB_OFFLINE=1"),
        (encoder_folder, r"cannot be loaded \(no file named model.safetensors\)"),
    ):
        with pytest.raises(UserError, match=why) as error:
            embedding_similarities(name, CPU)
        assert str(error.value).startswith(f"evaluator.embedding_model={name}: ")
        assert str(error.value).endswith("choose evaluator.choice_scorer=rouge_l, likelihood or none")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "scorer"),
    [
        ((), "rouge_l"),
        (("model=llama2_7b", "data=tofu"), "embedding"),
        (("model=olmo_1b", "data=tofu"), "embedding"),
        (("model=qwen3_0_6b",), "embedding"),
        (("model=olmo_1b", "data=tofu", "evaluator.choice_scorer=likelihood"), "likelihood"),
        (("model=tiny", "evaluator=tofu_soul"), "embedding"),
    ],
)
def test_hub_models_choose_by_embedding_and_models_from_config_offline(words, scorer):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert build_run(compose("config", overrides=list(words))).evaluator.choice_scorer == scorer
