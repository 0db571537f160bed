"""The command line: what composes, what is refused (one line, exit status 2), and what a run leaves behind."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import resources

import pytest
import yaml
from commands import SMALL, simu
from safetensors import SafetensorError
from safetensors.torch import load_file


def test_artifacts(finished):
    folder = finished / "first"
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("aggregate", "forget/exact_match", "retain/rouge_l_recall", "mia/min_k", "forget/n", "retain/n"):
        assert name in metrics
        assert f"original/{name}" in metrics
    assert (metrics["forget/n"], metrics["retain/n"]) == (10, 50)
    mask = load_file(folder / "mask.safetensors")["mask"]
    scores = load_file(folder / "attribution.safetensors")["forget"]
    assert mask.shape == scores.shape == (2, 32)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["status"] == "completed"
    counts = {"total": 64, "selected": int(mask.sum()), "per_layer": mask.sum(1).tolist()}
    assert provenance["mask"] == {"unit": "row", **counts}
    steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == list(range(1, len(steps) + 1))
    assert {"forget_loss", "retain_loss", "lr", "grad_norm", "clipped_fraction", "tokens_per_s"} <= set(steps[0])
    rows = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    assert {"id", "split", "prompt", "answer", "generated", "scores"} <= set(rows[0])
    assert sum(r["split"] == "forget" for r in rows) == 10
    assert (folder / ".hydra" / "config.yaml").is_file()
    assert not list(folder.glob(".*.tmp"))


def test_what_a_reader_must_know_is_said_and_noted_also_from_the_cache(finished):
    """SMALL allows 12 tokens, fewer than most answers have."""
    noted = []
    for folder in ("first", "again"):
        done = simu(*SMALL, f"hydra.run.dir={folder}", cwd=finished) if folder == "again" else None
        warnings = json.loads((finished / folder / "provenance.json").read_text())["warnings"]
        noted.append([line for line in warnings if "longer than can be generated" in line])
        assert done is None or done.stdout.count(noted[-1][0]) == 1 or done.stderr.count(noted[-1][0]) == 1
    assert noted[0] == noted[1]
    assert re.match(r"\d+ of \d+ answers are longer than can be generated \(evaluator\.max_new_tokens=12,", noted[0][0])


def test_saved_model_is_a_plain_folder_that_differs_only_where_it_was_trained(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished / "first"
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    target = AutoModelForCausalLM.from_pretrained(next((finished / "cache" / "target").glob("*/model")))
    assert len(AutoTokenizer.from_pretrained(folder / "model")) == model.config.vocab_size
    mask = load_file(folder / "mask.safetensors")["mask"]
    before = dict(target.named_parameters())
    for name, weight in model.named_parameters():
        if ".self_attn." in name:
            assert not weight.equal(before[name])
        elif "down_proj" in name:
            chosen = mask[int(name.split(".")[2])]
            assert weight[~chosen].equal(before[name][~chosen])
            assert not chosen.any() or not weight[chosen].equal(before[name][chosen])
        else:
            assert weight.equal(before[name])


BAD = [
    (["mask.t=1.5"], r"mask\.t=1\.5: allowed is a finite number, 0 ≤ x ≤ 1"),
    (["attribution.m=0"], r"attribution\.m=0: allowed is"),
    (["method=simuu"], r"method=simuu: no such option; did you mean 'simu'; allowed: .*so_graddiff"),
    (["optimizer.lr=fast"], r"optimizer\.lr='fast': allowed is a finite number"),
    (["optimizer.lr=-1"], r"optimizer\.lr=-1(\.0)?: allowed is"),
    (["optimizer.lrr=1"], r"optimizer\.lrr=1: no such key with optimizer=sophia; did you mean 'optimizer\.lr'\?"),
    (
        ["optimizer=adamw", "optimizer.gamma=1"],
        r"optimizer\.gamma=1: no such key with optimizer=adamw; known: betas, eps",
    ),
    (["data=tofu", "data.authors=6"], r"data\.authors=6: no such key with data=tofu; known: evaluation_rows, forget, "),
    (
        ["model=llama2_7b", "model.path=~/x"],
        r"model\.path=~/x.*; a value with other signs than letters stands in quotes",
    ),
    (["mask"], r"Error parsing override 'mask' missing EQUAL"),
    (["+mask.t=0.2"], r"An item is already at 'mask\.t'"),
    (["method=null"], r"method=null: allowed is one of fo_graddiff, original, simu, so_graddiff"),
    (["objective.retain_weigth=1"], r"did you mean 'objective\.retain_weight'\?"),
    (["+objective.betta=1"], r"objective\.betta: Objective has no such field"),
    (["data=tofu", "data.path=/no/such/folder"], r"data\.path=/no/such/folder: no such folder"),
    (["training.epochs=-1"], r"training\.epochs=-1: allowed is"),
    (["stages=[target,guess]"], r"stages=.*guess.*: allowed is a list of target, attribution, mask, unlearning"),
    (["hydra.run.dir=/dev/null/x"], r"/dev/null/x: Not a directory; allowed is a folder to write to"),
    (["modell=tiny"], r"modell=tiny: no such key; did you mean 'model'\?"),
    (
        ["evaluator.choice_scorer=embedding", "evaluator.embedding_model=none/such"],
        r"sentence-transformers is not installed|embedding_model=none/such: not in the local hub cache",
    ),
    (["seed=abc"], r"seed='abc': allowed is a whole number"),
    (["stages=[]"], r"stages=\[\]: allowed is a list of target, attribution, mask, unlearning, evaluation"),
    (["stages=target"], r"stages='target': allowed is a list of target, attribution, .*, evaluation or robustness"),
    (["cache_dir="], r"cache_dir='': allowed is a folder"),
    (["device=mps"], r"device=mps: this machine has no MPS device; allowed here: auto, cpu"),
    (["device=cuda:99"], r"device=cuda:99: this machine has (no|\d+) CUDA devices?; allowed here: auto, cpu"),
    (["objective.retain_weight=inf"], r"objective\.retain_weight=inf: allowed is a finite number"),
    (["optimizer.betas=[0.9,nan]"], r"optimizer\.betas=.*nan.*: allowed is a list of 2 finite numbers"),
    (
        ["evaluator.attacks=[foo]"],
        r"evaluator\.attacks=\['foo'\]: allowed is a list of loss, zlib, min_k, .*soul_compat",
    ),
    (["model=llama2_7b", "model.path=/no/such/model", "model.is_target=true"], r"model\.path=/no/such/model"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_overrides(tmp_path, overrides, message):
    done = simu(*overrides, cwd=tmp_path, check=False, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("cache/*/*/files.json"))


def test_no_step_at_all_is_a_run(finished):
    """training.max_steps=0, as training.epochs=0: after is before."""
    simu(*SMALL, "training.max_steps=0", "hydra.run.dir=nostep", cwd=finished)
    metrics = json.loads((finished / "nostep/metrics.json").read_text())
    assert metrics["forget/mean_nll"] == metrics["original/forget/mean_nll"]


def test_template_tokens_can_be_attributed(finished):
    """A switch of SPEC §2 that needs tags in the batches."""
    words = [*SMALL, "attribution.tokens=template", "cache_dir=cache_of_tags", "hydra.run.dir=tags"]
    simu(*words, "stages=[attribution]", cwd=finished)
    answers = load_file(finished / "first/attribution.safetensors")["forget"]
    tags = load_file(finished / "tags/attribution.safetensors")["forget"]
    assert tags.shape == answers.shape
    assert not tags.equal(answers)
    assert "shadow streams" in simu(*words, "dry_run=true", cwd=finished).stdout


def test_a_rival_compares_with_the_other_side_and_top_takes_so_many(finished):
    """6 of 64 neurons; the sides of the retain scores are those of the forget scores, swapped."""
    words = [*SMALL, "stages=[attribution,mask]", "tracker=none"]
    for name in ("wagle", "snip"):
        simu(*words, f"attribution={name}", "mask=top", "mask.share=0.1", f"hydra.run.dir={name}", cwd=finished)
        assert int(load_file(finished / name / "mask.safetensors")["mask"].sum()) == 6
        report = json.loads((finished / name / "mask_report.json").read_text())
        assert list(report["masks"]) == ["mask"]  # without a threshold there are no critical neurons
        options = json.loads((finished / name / "provenance.json").read_text())["options"]
        assert (options["attribution"], options["mask"]) == (name, "top")
    simu(*words, "attribution=wagle", "mask=contrastive", "hydra.run.dir=both", cwd=finished)
    forget, retain, alone = (
        json.loads((finished / "cache/attribution" / stages[label]["digest"] / "inputs.json").read_text())["inputs"]
        for folder, label in (("both", "forget"), ("both", "retain"), ("snip", "forget"))
        for stages in [json.loads((finished / folder / "provenance.json").read_text())["stages"]]
        for label in [f"attribution ({label})"]
    )
    assert forget["rows"] == retain["other"] == alone["rows"] != forget["other"] == retain["rows"]
    assert alone["other"] is None
    done = simu(*SMALL, "mask=top", "mask.share=null", "mask.count=65", cwd=finished, check=False)
    assert done.returncode == 2
    assert done.stderr == "simu: mask.count=65: allowed is x ≤ 64, the number of neurons of tiny\n"


def test_hidden_neurons_are_attributed_chosen_and_trained(finished):
    """SMALL has two layers of 32 channels and 48 hidden neurons: columns of [32, 48] weights, and no others, move."""
    from transformers import AutoModelForCausalLM

    words = [*SMALL, "attribution.unit=hidden", "mask=top", "mask.share=0.1", "save_model=true", "tracker=none"]
    simu(*words, "stages=[attribution,mask,unlearning]", "hydra.run.dir=hidden", cwd=finished)
    folder = finished / "hidden"
    mask = load_file(folder / "mask.safetensors")["mask"]
    assert (mask.shape, int(mask.sum())) == ((2, 48), 10)
    assert json.loads((folder / "mask_report.json").read_text())["unit"] == "hidden"
    before = AutoModelForCausalLM.from_pretrained(next((finished / "cache" / "target").glob("*/model")))
    after = AutoModelForCausalLM.from_pretrained(folder / "model")
    for layer, chosen in enumerate(mask):
        old, new = (model.model.layers[layer].mlp.down_proj.weight for model in (before, after))
        assert new[:, ~chosen].equal(old[:, ~chosen])
        assert all(not new[:, k].equal(old[:, k]) for k in chosen.nonzero().flatten())


def test_evaluator_of_other_data_is_one_line(finished):
    done = simu(*SMALL, "evaluator=lume", cwd=finished, check=False)
    assert done.returncode == 2
    assert re.search(r"'author\d+/\w+' is no LUME id.*; evaluator=lume scores data=lume", done.stderr), done.stderr


def test_no_room_on_the_disk_is_one_line_and_leaves_no_half_file(tmp_path):
    """Files end at 100 KB here, as they do on a full disk: the target's weights (167 KB) do not fit."""
    room = f"ulimit -f 100; {shlex.quote(sys.executable)} -m simu.run {' '.join(SMALL)} hydra.run.dir=run"
    done = subprocess.run(
        ["bash", "-c", room],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "SIMU_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 2, done.stderr
    assert re.search(r"simu: no room to write \(.*File too large.*\); free some .*the same command", done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    simu(*SMALL, "hydra.run.dir=run", cwd=tmp_path)
    assert (tmp_path / "run/metrics.json").is_file()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "cache/x"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
    ids=str,
)
def test_every_way_in_which_a_full_disk_shows(error):
    from simu.cli.messages import explain

    assert (explain(error, []) or "").startswith("no room to write (")


def test_slurm_without_slurm_is_one_line(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="extra `slurm` is not installed")
    words = ["-m", "hydra/launcher=submitit_slurm", "mask.t=0.1,0.2"]
    done = simu(*words, cwd=tmp_path, check=False, PATH="/nowhere")
    assert done.returncode == 2
    assert re.search(r"submitit_slurm: no srun on this machine; .*submitit_local", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_broken_row_in_a_data_file(tmp_path, tofu_dir):
    for name in ("forget10", "retain90"):
        (tmp_path / f"{name}.jsonl").write_bytes((tofu_dir / f"{name}.jsonl").read_bytes())
    last = len((tmp_path / "forget10.jsonl").read_text(encoding="utf-8").splitlines())
    with (tmp_path / "forget10.jsonl").open("a") as f:
        f.write('{"question": "x", broken\n')
    done = simu("data=tofu", f"data.path={tmp_path}", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert re.search(rf"forget10\.jsonl, row {last + 1}: broken JSON", done.stderr)
    assert len(done.stderr.splitlines()) <= 4


def printed(name: str) -> list[dict[str, str]]:
    """The paper's table, from the project's own CSV."""
    text = (resources.files("simu.report") / "paper" / f"{name}.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


CELLS = [(r["model"], r["data"], r["method"]) for r in printed("table4")]


@pytest.mark.parametrize(("model", "data", "method"), CELLS)
def test_presets_are_tables_3_and_4(model, data, method):
    from hydra import compose, initialize_config_dir

    from simu.config import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"model={model}", f"data={data}", f"method={method}"])
    same = {"model": model, "data": data}
    row = next(r for r in printed("table4") if same.items() <= r.items() and r["method"] == method)
    assert config.optimizer.lr == float(row["learning_rate"])
    assert config.training.epochs == int(row["epochs"])
    assert config.training.batch_size == int(row["batch_size"])
    assert config.objective.retain_weight == float(row["retain_weight"])
    terms = [config.objective[term]._target_.rpartition(".")[2] for term in ("forget", "retain")]
    assert terms == ["Ascent", "CE"]  # GradDiff
    assert config.optimizer._target_.endswith("AdamW" if method == "fo_graddiff" else "Sophia")
    if method == "simu":
        mask = next(r for r in printed("table3") if same.items() <= r.items())
        assert (config.mask.t, config.attribution.m) == (float(mask["t"]), int(mask["m"]))
        assert config.attribution.batch_size == int(mask["batch_size"])


def test_cfg_job_prints_the_numbers_and_an_override_wins(tmp_path):
    done = simu("--cfg", "job", "model=olmo_1b", "data=lume", "method=simu", "optimizer.lr=1e-3", cwd=tmp_path)
    config = yaml.safe_load(done.stdout)
    assert (config["mask"]["t"], config["attribution"]["m"], config["training"]["epochs"]) == (0.3, 5, 10)
    assert config["optimizer"]["lr"] == 0.001


@pytest.mark.parametrize(("model", "neurons"), [("llama2_7b", 131072), ("olmo_1b", 32768)])
def test_dry_run_loads_nothing_and_prints_the_plan(tmp_path, model, neurons):
    """The paper's Table 5 totals, from the real configurations on the meta device; no hub is asked."""
    done = simu(f"model={model}", "dry_run=true", "hydra.run.dir=dry", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert f"{neurons} neurons" in done.stdout
    assert "shadow streams" in done.stdout
    assert not (tmp_path / "cache").exists()


def test_methods_leave_every_slot_overridable():
    from hydra import compose, initialize_config_dir

    from simu.config import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=["method=simu", "objective=npo", "mask=contrastive", "optimizer=adamw"])
    nodes = [config.objective.forget, *(config[slot] for slot in ("mask", "optimizer", "selection"))]
    assert [node._target_.rpartition(".")[2] for node in nodes] == ["NPO", "Contrastive", "BuildAdamW", "Selected"]
