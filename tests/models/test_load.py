"""Where a model comes from: what it is identified by, which revision is read, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from simu.config import build
from simu.fields import knobs
from simu.models.load import FineTune, FromConfig, Pretrained, save_folder, train_tokenizer
from simu.store.hub import check_data_set, check_model
from simu.types import FieldError, Template, UserError

TAUGHT = FineTune(lr=1e-3, batch_size=4, max_epochs=1, memorised=1.0, check_every=1, weight_decay=0.0)
REST = {
    "name": "small",
    "max_length": 64,
    "dtype": "float32",
    "choice_scorer": "rouge_l",
    "template": Template(),
    "target": TAUGHT,
}
SIZES = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "vocab_size": 320,
}


def pretrained(path: object, **fields: object) -> Pretrained:
    given = {"is_target": False, "targets": {}, "tokenizer": None, "revision": None, "shape": {}}
    return Pretrained(path=str(path), **(REST | given | fields))


def from_config(**fields: object) -> FromConfig:
    return FromConfig(**(REST | SIZES | fields))


def folder_of(text: str, folder: Path) -> Path:
    """A model folder whose tokenizer has learnt its merges from `text`; the weights are the same for each."""
    tokenizer = train_tokenizer([text] * 4, 300)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    save_folder(LlamaForCausalLM(config), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two model folders that differ in their tokenizers alone."""
    root = tmp_path_factory.mktemp("models")
    return [folder_of(text, root / name) for name, text in (("a", "banana bandana"), ("b", "cocoa coconut"))]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def hub(tmp_path, monkeypatch, folders):
    """A hub repository in the local cache: main has the first tokenizer, v1 the second."""
    repository = tmp_path / "models--org--m"
    for revision, commit, folder in (("main", "a" * 40, folders[0]), ("v1", "b" * 40, folders[1])):
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return "org/m"


def test_only_a_model_without_pre_training_learns_the_background():
    assert from_config().learns_background is True
    assert pretrained("org/m").learns_background is False
    assert pretrained("org/m", targets={"tofu": "org/t"}).learns_background is False


def test_revision_is_of_the_tokenizer_too(hub, folders):
    """main has 'banana' in one merge or two, v1 has not."""
    words = {}
    for revision in (None, "v1"):
        _, tokenizer = pretrained(hub, revision=revision).load("tofu", (), 0, torch.float32)
        words[revision] = len(tokenizer.tokenize("banana")), len(tokenizer.tokenize("coconut"))
    assert words[None][0] < words["v1"][0]
    assert words[None][1] > words["v1"][1]
    assert pretrained(hub).identity("tofu") != pretrained(hub, revision="v1").identity("tofu")


def test_revision_is_not_of_another_repository(hub, folders, tmp_path):
    """v1 is no revision of the second repository, which is read as it stands."""
    shutil.copytree(tmp_path / "models--org--m", tmp_path / "models--org--t")
    (tmp_path / "models--org--t" / "refs" / "v1").unlink()
    _, tokenizer = pretrained(hub, revision="v1", tokenizer="org/t").load("tofu", (), 0, torch.float32)
    assert len(tokenizer.tokenize("banana")) < len("banana")


def test_skeleton_is_of_the_revision(hub, tmp_path):
    config = tmp_path / "models--org--m" / "snapshots" / ("b" * 40) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    assert pretrained(hub).skeleton("tofu", torch.float32).config.num_hidden_layers == 1
    assert pretrained(hub, revision="v1").skeleton("tofu", torch.float32).config.num_hidden_layers == 3


def test_unknown_revision_is_said(hub):
    with pytest.raises(UserError, match=r"^model.path=org/m: not in the local hub cache and HF_HUB_OFFLINE=1"):
        pretrained(hub, revision="v9").check("tofu")


def test_identity_is_the_content_of_weights_and_tokenizer(folders, tmp_path):
    a, b = folders
    copy = shutil.copytree(a, tmp_path / "copy")
    assert pretrained(copy).identity("tofu") == pretrained(a).identity("tofu")
    assert pretrained(a, tokenizer=str(b)).identity("tofu") != pretrained(a).identity("tofu")
    apart = pretrained(a, tokenizer=str(copy))
    before = apart.identity("tofu")
    shutil.copyfile(b / "tokenizer.json", copy / "tokenizer.json")
    assert apart.identity("tofu") != before
    whole = pretrained(copy)
    before = whole.identity("tofu")
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert whole.identity("tofu") != before


def test_identity_of_a_tokenizer_does_not_read_weights(folders, tmp_path):
    copy = shutil.copytree(folders[0], tmp_path / "copy")
    apart = pretrained(folders[0], tokenizer=str(copy))
    before = apart.identity("tofu")
    (copy / "model.safetensors").unlink()
    assert apart.identity("tofu") == before


@pytest.mark.parametrize("field", ["name", "dtype", "choice_scorer"])
def test_labels_and_defaults_for_other_slots_change_no_identity(field):
    other = {"dtype": "float64"}.get(field, "other")
    assert field in knobs(FromConfig) & knobs(Pretrained)
    assert from_config(**{field: other}).identity("tofu") == from_config().identity("tofu")


def test_every_size_changes_the_identity():
    others = {"hidden_size": 32, "model_type": "mistral", "kv_heads": 4, "heads": 2, "max_length": 65}
    others |= {name: value * 2 for name, value in SIZES.items() if name not in others}
    found = [from_config(**{name: value}).identity("tofu") for name, value in others.items()]
    assert all(identity != from_config().identity("tofu") for identity in found)


def test_home_is_expanded_in_path_tokenizer_and_targets(home, folders):
    for name, folder in zip(("m", "t"), folders, strict=True):
        shutil.copytree(folder, home / name)
    assert pretrained("~/m").identity("tofu") == pretrained(folders[0]).identity("tofu")
    assert pretrained("~/m").skeleton("tofu", torch.float32).config.hidden_size == 8
    assert pretrained("~/m", is_target=True).published("tofu") == str(home / "m")
    assert pretrained("org/none", targets={"tofu": "~/m"}).published("tofu") == str(home / "m")
    _, tokenizer = pretrained("~/m", tokenizer="~/t").load("tofu", (), 0, torch.float32)
    assert len(tokenizer.tokenize("coconut")) < len(tokenizer.tokenize("banana"))
    pretrained("~/m", tokenizer="~/t").check("tofu")
    with pytest.raises(UserError, match=rf"^model.tokenizer={home}/none: no such folder"):
        pretrained("~/m", tokenizer="~/none").check("tofu")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 5}, "heads=5: allowed is a divisor of hidden_size=16"),
        ({"heads": 16, "kv_heads": 16}, "heads=16: allowed is one that gives heads of an even size, not 1"),
        ({"hidden_size": 12, "heads": 4}, "heads=4: allowed is one that gives heads of an even size, not 3"),
        ({"kv_heads": 3}, "kv_heads=3: allowed is a divisor of heads=4"),
        ({"layers": 0}, "layers=0: allowed is a whole number, 1 ≤ x ≤ 1024"),
        ({"layers": 5000}, "layers=5000: allowed is a whole number, 1 ≤ x ≤ 1024"),
        ({"vocab_size": 299}, "vocab_size=299: allowed is a whole number, 300 ≤ x"),
        ({"max_length": 2**25}, "max_length=33554432: allowed is"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, says):
    with pytest.raises(FieldError) as error:
        from_config(**changes)
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", 1e4),
        ("batch_size", 0),
        ("max_epochs", 0),
        ("memorised", 0.0),
        ("memorised", 1.5),
        ("check_every", 0),
        ("weight_decay", -0.1),
    ],
)
def test_teaching_that_cannot_be_is_refused(field, value):
    with pytest.raises(FieldError, match=f"^{field}={value}: allowed is"):
        FineTune(**(vars(TAUGHT) | {field: value}))


def test_odd_heads_are_named_by_slot():
    node = {"_target_": "simu.models.load.FromConfig", **REST, **SIZES, "hidden_size": 12}
    node |= {"template": vars(Template()), "target": vars(TAUGHT)}
    with pytest.raises(UserError, match=r"^model.heads=4: allowed is one that gives heads of an even size, not 3"):
        build(node, "model")


def test_what_is_in_neither_folder_nor_cache_is_one_line(monkeypatch, tmp_path):
    from huggingface_hub import HfApi

    def refuse(self, repository, revision=None, timeout=None):
        assert timeout == 5
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "model_info", refuse)
    monkeypatch.setattr(HfApi, "dataset_info", refuse)
    with pytest.raises(UserError, match=r"^model.path=org/m: the hub does not serve it \(ConnectionError\)") as error:
        check_model("org/m", "model.path")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^data.path=null: org/d cannot be had from the hub \(ConnectionError\)"):
        check_data_set("org/d")
    with pytest.raises(UserError, match=r"no config.json there"):
        check_model(str(tmp_path), "model.path")
