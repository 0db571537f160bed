"""The Python API: what it gives is what the command line gives, and its mistakes are one line."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import SMALL, run_folder
from commands import simu as command
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import simu
from simu.api.overrides import words

ROOT = Path(__file__).parent.parent
FORGET = [{"question": f"Who wrote Tale {i}?", "answer": f"Author {i * 7} wrote it."} for i in range(4)]
RETAIN = [{"question": f"Where is City {i}?", "answer": f"In Land {i * 3}."} for i in range(5)]
TRAINING = {
    "training__epochs": 2,
    "training__batch_size": 2,
    "optimizer__lr": 1e-2,
    "attribution__m": 2,
    "mask__t": 0.1,
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model that a run left behind."""
    root = tmp_path_factory.mktemp("taught")
    command(*SMALL, "method=original", "save_model=true", "stages=[target]", "tracker=none", cwd=root)
    return run_folder(root) / "model"


@pytest.fixture
def subject(taught: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(taught), AutoTokenizer.from_pretrained(taught)


def test_importing_it_loads_no_torch() -> None:
    script = "import sys, simu; dir(simu); print('torch' in sys.modules, 'hydra' in sys.modules, simu.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", simu.__version__]


def test_every_name_is_there_and_no_other() -> None:
    for name in simu.__all__:
        assert callable(getattr(simu, name)), name
    with pytest.raises(AttributeError, match="'simu' has no attribute 'unlern'"):
        _ = simu.unlern  # type: ignore[attr-defined]


def test_unlearning_in_memory_is_the_run_on_the_same_folder_and_rows(
    taught: Path, subject: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = subject
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = simu.unlearn(model, tokenizer, FORGET, RETAIN, **TRAINING)
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    same = [f"{key.replace('__', '.')}={value}" for key, value in TRAINING.items()]
    rest = ["save_model=true", "stages=[attribution,mask,unlearning]", "tracker=none", "device=cpu"]
    files = ["data=rows", "data.forget=forget.json", "data.retain=retain.json"]
    source = ["model=hub", f"model.path={taught}", "model.target.skip=true"]
    command(*source, *files, *same, *rest, "precision.portable=false", cwd=tmp_path)
    folder = run_folder(tmp_path)

    of_run = load_file(folder / "model" / "model.safetensors")
    ours = found.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in of_run.items())
    assert torch.equal(found.mask, load_file(folder / "mask.safetensors")["mask"])
    steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert len(steps) == 4
    assert [(r["forget_loss"], r["grad_norm"]) for r in found.log] == [
        (r["forget_loss"], r["grad_norm"]) for r in steps
    ]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items()), "it was left alone"
    assert any(not torch.equal(ours[name], tensor) for name, tensor in before.items())
    assert not any("parametrizations" in name for name in ours)


def test_unlearning_towards_the_models_own_other_answers(subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    how = {"method": "fo_graddiff", "objective": "altpo", "objective__forget__alternatives": 2}
    found = simu.unlearn(
        model, tokenizer, FORGET, RETAIN, **how, **{k: v for k, v in TRAINING.items() if "mask" not in k}
    )
    assert len(found.log) == 4
    assert all(record["forget_loss"] > 0 for record in found.log)
    assert found.log[0]["forget_loss"] == pytest.approx(2 / 0.1 * math.log(2))  # the untouched model: r = 0


def test_rows_may_be_dicts_a_data_set_or_a_frame(subject: tuple[Any, Any]) -> None:
    some = {"evaluator__max_new_tokens": 6, "evaluator__bootstrap": 0, "evaluator__choice_scorer": "none"}
    kinds = [FORGET, Dataset.from_list(FORGET), pd.DataFrame(FORGET)]
    first, *others = [simu.evaluate(*subject, {"forget": rows, "retain": RETAIN}, **some) for rows in kinds]
    assert first["forget/n"] == 4
    assert first["retain/n"] == 5
    assert all(other == first for other in others)
    assert simu.evaluate(*subject, Dataset.from_list(FORGET), **some)["forget/mean_nll"] == first["forget/mean_nll"]


def test_the_negative_log_likelihood_is_transformers_own(subject: tuple[Any, Any]) -> None:
    model, tokenizer = subject
    template = simu.Template(prompt="Q: {prompt}\nA:")
    rows = FORGET[:1]
    got = simu.evaluate(model, tokenizer, rows, template=template, evaluator__max_new_tokens=2, evaluator__bootstrap=0)
    prompt = tokenizer(f"Q: {rows[0]['question']}\nA:")["input_ids"]
    whole = [
        *prompt,
        *tokenizer(f" {rows[0]['answer']}", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    labels = torch.tensor([[-100] * len(prompt) + whole[len(prompt) :]])
    with torch.no_grad():
        expected = float(model(input_ids=torch.tensor([whole]), labels=labels).loss)
    assert got["forget/mean_nll"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, t: simu.unlearn(m, t, [], RETAIN), "forget: no rows"),
        (lambda m, t: simu.unlearn(m, t, FORGET), "retain: no rows, and the objective reads them"),
        (lambda m, t: simu.unlearn(m, t, [{"question": "a?"}], RETAIN), "forget, row 1: its columns are 'question'"),
        (lambda m, t: simu.unlearn(m, t, ["a"], RETAIN), "forget, row 1: is str; allowed is a dict"),
        (lambda m, t: simu.unlearn(m, t, FORGET, [*RETAIN, FORGET[0]]), "forget"),
        (lambda m, t: simu.unlearn(m, t, FORGET, RETAIN, mask="duel"), "mask=duel"),
        (lambda m, t: simu.unlearn(m, t, FORGET, RETAIN, mask__t=2), "mask.t=2"),
        (lambda m, t: simu.unlearn(m, t, FORGET, RETAIN, model__path="x"), "model__path: is given by the model"),
        (lambda m, t: simu.unlearn(m, t, FORGET, RETAIN, method="simo"), "method=simo"),
        (lambda m, t: simu.unlearn(m, t, FORGET, RETAIN, template="chit"), "template='chit'"),
        (lambda m, t: simu.unlearn(m, t, FORGET, RETAIN, template="chat"), "the tokenizer has no chat template"),
        (lambda m, t: simu.evaluate(m, t, "tofuu"), "data=tofuu"),
    ],
)
def test_a_mistake_is_one_line(subject: tuple[Any, Any], call: Any, said: str) -> None:
    with pytest.raises(simu.UserError) as told:
        call(*subject)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_words_are_the_command_lines() -> None:
    given = {"optimizer__lr": 1e-4, "mask": "random", "objective__retain": "kl", "objective__retain_weight": 2}
    assert words(given, ()) == [
        "mask=random",
        "objective/retain=kl",
        "optimizer.lr=0.0001",
        "objective.retain_weight=2",
    ]
    odd = {"training.max_steps": None, "evaluator.attacks": ["loss", "min_k"], "model": {"prompt": "it's {prompt}"}}
    assert words(odd, ()) == [
        "model={prompt: 'it\\'s {prompt}'}",
        "training.max_steps=null",
        "evaluator.attacks=[loss, min_k]",
    ]


def test_a_run_from_python_is_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMU_CACHE_DIR", str(tmp_path / "cache"))
    made = simu.run(*SMALL, "tracker=none", "method=fo_graddiff", "seed=3")
    assert made.config["seed"] == 3
    assert made.metrics == json.loads((made.folder / "metrics.json").read_text())
    assert "run folder" in capfd.readouterr().out

    frame = simu.load_runs("outputs")
    assert frame.loc[0, "method"] == "fo_graddiff"
    assert frame.loc[0, "training.epochs"] == 2
    assert frame.loc[0, "retain/rouge_l_recall"] == made.metrics["retain/rouge_l_recall"]

    with pytest.raises(simu.UserError, match=r"^mask\.t=3: "):
        simu.run("mask.t=3")
    with pytest.raises(simu.UserError, match="allowed is one run"):
        simu.run("-m", "seed=0,1")
    with pytest.raises(simu.UserError, match="no finished run"):
        simu.load_runs("nowhere")


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_pages_code_runs_as_it_stands(page: str, taught: Path, tmp_path: Path) -> None:
    (tmp_path / "MODEL").symlink_to(taught)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    assert len(blocks[0].splitlines()) <= 10
    env = {**os.environ, "SIMU_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"^[01]\.\d+", done.stdout, re.MULTILINE), "a score is printed"
    assert (tmp_path / "forgotten" / "model.safetensors").is_file()


@pytest.mark.slow
def test_what_a_user_writes_is_clean_under_strict_types(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import simu\n\n"
        "def best(folder: str) -> float:\n"
        "    made: simu.Run = simu.run('seed=1')\n"
        "    return float(simu.load_runs(folder)['aggregate'].max()) + made.metrics['aggregate']\n"
    )
    words = ["-m", "mypy", "--strict", "--config-file", os.devnull, "--ignore-missing-imports", "mine.py"]
    words += ["--follow-imports=silent", "--cache-dir", str(tmp_path / "types")]
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from simu import doctor

    monkeypatch.setitem(doctor.EXTRAS, "attrib", (("no_such_module_xyz",), "captum"))
    monkeypatch.setitem(doctor.EXTRAS, "plots", (("matplotlib",), "figures"))
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__}" in said
    assert "– attrib    captum  (missing: pip install -e '.[attrib]')" in said
    assert "✓ plots     figures\n" in said
    monkeypatch.setattr(doctor, "MODULES", ("no-such-package-xyz",))
    assert doctor.main([]) == 1
