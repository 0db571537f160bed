"""A tokenizer and a model that do not belong together are one line before a weight is loaded; positions are a limit."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from simu.data.batching import encode_examples
from simu.evaluation.tofu import TofuEvaluator
from simu.models.load import FineTune, Pretrained, content, load_folder, save_folder, train_tokenizer
from simu.types import Example, Splits, Subject, Template, UserError

TAUGHT = FineTune(lr=1e-3, batch_size=4, max_epochs=1, memorised=1.0, check_every=1, weight_decay=0.0)
POSITIONS = 64


def pretrained(path: Path, **fields: object) -> Pretrained:
    given: dict = {"name": "x", "is_target": False, "targets": {}, "tokenizer": None, "revision": None, "shape": {}}
    given |= {"max_length": 1024, "template": Template(), "target": TAUGHT, "dtype": "float32", "choice_scorer": "none"}
    return Pretrained(path=str(path), **(given | fields))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    """GPT-2 with learned positions, 64 of them."""
    folder = tmp_path_factory.mktemp("gpt2") / "m"
    tokenizer = train_tokenizer(["banana bandana"] * 4, 300)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=POSITIONS, n_embd=8, n_layer=1, n_head=2)
    config.bos_token_id, config.eos_token_id = 1, 2
    torch.manual_seed(0)
    save_folder(GPT2LMHeadModel(config), tokenizer, folder)
    return folder


@pytest.fixture
def folder(gpt2, tmp_path) -> Path:
    return shutil.copytree(gpt2, tmp_path / "m")


def change(folder: Path, name: str, **values: object) -> None:
    held = json.loads((folder / name).read_text())
    kept = {k: v for k, v in (held | values).items() if v is not ...}
    (folder / name).write_text(json.dumps(kept))


def refused(model: Pretrained) -> str:
    """What is said, equally before anything is loaded and by a load."""
    with pytest.raises(UserError) as early:
        model.check("tofu")
    (Path(model.path) / "model.safetensors").unlink()  # the weights are not looked at
    with pytest.raises(UserError) as again:
        model.check("tofu")
    assert str(early.value) == str(again.value)
    assert "\n" not in str(early.value)
    return str(early.value)


def test_what_belongs_together_passes(folder):
    pretrained(folder).check("tofu")
    pretrained(folder).load("tofu", (), 0, torch.float32)


def test_a_tokenizer_without_eos(folder):
    change(folder, "tokenizer_config.json", eos_token=...)
    with pytest.raises(UserError, match="has no EOS"):
        load_folder(folder, torch.float32)
    assert refused(pretrained(folder)).startswith(f"model.path={folder}: the tokenizer has no EOS, the token that ends")


def test_a_tokenizer_larger_than_the_embedding(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken(f"<{i}>") for i in range(5)])
    tokenizer.save_pretrained(folder.parent / "t")
    with pytest.raises(UserError, match=r"model\.tokenizer=.*the tokenizer has tokens up to number"):
        load_folder(folder, torch.float32, tokenizer=str(folder.parent / "t"))
    said = refused(pretrained(folder, tokenizer=str(folder.parent / "t")))
    assert said.startswith(
        f"model.tokenizer={folder.parent / 't'}: the tokenizer has tokens up to number {rows + 4}; allowed is 0 to "
        f"{rows - 1}: the model's embedding has {rows} rows"
    )


@pytest.mark.parametrize("of", ["tokenizer", "config"])
def test_a_pad_token_beyond_the_embedding(folder, of):
    rows = len(AutoTokenizer.from_pretrained(folder))
    if of == "tokenizer":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        tokenizer.save_pretrained(folder)
        number = rows
    else:
        change(folder, "config.json", pad_token_id=999)
        number = 999
    said = refused(pretrained(folder))
    whose = "the tokenizer's" if of == "tokenizer" else "config.json's"
    assert said.startswith(f"model.path={folder}: {whose} pad token is number {number}; allowed is 0 to {rows - 1}")


ROWS = (
    Example(id="forget/0", prompt="Who?", answer="banana"),
    Example(id="forget/1", prompt="Where?", answer="x" * 80),
    Example(id="forget/2", prompt="y" * 100, answer="banana"),
)


def test_rows_longer_than_the_model_has_positions_are_cut_with_the_usual_warning(gpt2, caplog):
    from hydra import compose, initialize_config_dir

    from simu import pipeline
    from simu.config import build_run, conf_dir
    from simu.stages.artifact import Context
    from simu.store.cache import Cache

    words = ["model=qwen3_0_6b", f"model.path={gpt2}", "method=original", "tracker=none", "precision.weights=float32"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = build_run(compose("config", overrides=words))
    context = Context(cache=Cache(Path("none")), device=torch.device("cpu"), group=None, tracker=None)
    with caplog.at_level(logging.WARNING):
        setup = pipeline.setup_of(cfg, cfg.data(), context)
        assert setup.max_length == POSITIONS
        _, tokenizer = load_folder(gpt2, torch.float32)
        encoded = encode_examples(tokenizer, setup.template, ROWS, setup.max_length)
    assert max(map(len, encoded)) == POSITIONS
    assert f"model.max_length=4096: the model has {POSITIONS} positions, rows are cut to these" in caplog.text
    assert f"cut to model.max_length={POSITIONS}" in caplog.text


@pytest.mark.parametrize("max_length", [None, 4096])
def test_an_evaluator_reads_and_writes_within_the_positions(gpt2, caplog, max_length):
    """Whatever it is told of the length: prompts beyond the positions, and prompts that max_new_tokens takes there."""
    model, tokenizer = load_folder(gpt2, torch.float32)
    splits = Splits(name="x", forget=ROWS, retain=ROWS, evaluation={"forget": ROWS})
    evaluator = TofuEvaluator(max_new_tokens=200, bootstrap=0, attacks=("min_k", "soul_compat"))
    for asked in (evaluator, replace(evaluator, strict=True)):
        found = asked(Subject(model, tokenizer, Template(), max_length), splits)
        assert len(found.rows) == 3
        assert any(line.startswith("2 of 3 answers are longer than can be generated") for line in found.warnings)
    assert f"forget/2: a prompt of 101 tokens, its last {POSITIONS} are read" in caplog.text


def test_a_hub_repository_is_what_its_branch_points_to(monkeypatch, tmp_path):
    """A tag that was moved, a main that went on: other content, another key."""
    repository = tmp_path / "models--org--m"
    (repository / "refs").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = []
    for commit in ("a" * 40, "b" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        for branch in ("main", "v1"):
            (repository / "refs" / branch).write_text(commit)
        found += [content("org/m"), content("org/m", "v1")]
        assert found[-1] == found[-2] == f"org/m@{commit}"
    assert len(set(found)) == 2


def test_a_sentence_encoder_is_an_input_by_its_content(tmp_path):
    from simu.store.identity import components, describe

    for part, text in (("config.json", "{}"), ("1_Pooling/config.json", "{}"), ("model.safetensors", "a")):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_text(text)
    asked = TofuEvaluator(choice_scorer="embedding", embedding_model=str(tmp_path))
    before = describe(asked)
    moved = shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    assert describe(replace(asked, embedding_model=str(moved))) == before
    for part in ("model.safetensors", "1_Pooling/config.json"):
        (tmp_path / part).write_text('{"other": 1}')
        after = describe(asked)
        assert after != before
        before = after
    assert before | {"max_new_tokens": 9} == describe(replace(asked, max_new_tokens=9))
    assert "simu.evaluation.tofu" in set(components(asked))
