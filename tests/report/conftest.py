"""Synthetic run folders, in the layout that a run leaves behind. The numbers are made up; the shapes are real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

CHOICES = {"fo_graddiff": "all", "so_graddiff": "all", "simu": "dual"}
LAYERS, WIDTH = 4, 64
TASKS = ("Task1", "Task2", "Task3")


def options(*, model: str, data: str, method: str, mask: str, objective: str) -> dict[str, str]:
    """Slot → option."""
    return {
        "model": model,
        "data": data,
        "evaluator": "lume" if data == "lume" else "tofu",
        "method": method,
        "attribution": "integrated",
        "mask": mask,
        "objective": objective,
        "optimizer": "adamw" if method == "fo_graddiff" else "sophia",
        "selection": "selected" if method == "simu" else "all",
        "training": "default",
        "tracker": "none",
    }


def settings(*, seed: int, data: str, t: float, m: int, **more: object) -> dict[str, object]:
    """Every setting that can change a result, as a run writes them: flat, without seeds and knobs."""
    qa = {"evaluator.aggregate_em": "exact_match", "evaluator.aggregate_mia": "min_k"}
    lume = {"data.fold": "heldout", "data.mia_set": "fold"}
    return {
        "data.forget": "10",
        **(lume if data == "lume" else qa),
        "attribution.m": m,
        "attribution.objective": "log_prob",
        "attribution.position": "next_token",
        "attribution.batch_size": 16,
        "mask.t": t,
        "mask.seed": seed,
        "optimizer.weight_decay": 0.1,
        "training.epochs": 5,
        "training.batch_size": 16,
        "evaluator.mia_k": 0.2,
        "precision.weights": "float32",
        "precision.master": True,
        **more,
    }


def tofu_metrics(forget: float, retain: float, rng: np.random.Generator, rows: int) -> dict[str, float]:
    values: dict[str, float] = {}
    levels = {"forget": forget, "retain": retain, "world_facts": retain * 0.9}
    for split, level in levels.items():
        n = rows if split != "world_facts" else 117
        values[f"{split}/n"] = n
        for name, shift in (
            ("exact_match", -0.05),
            ("rouge_l_recall", 0.0),
            ("choice_accuracy", -0.1),
            ("contains_answer", 0.02),
        ):
            value = float(np.clip(level + shift + rng.normal(0, 0.01), 0, 1))
            half = 1.96 * np.sqrt(max(value * (1 - value), 1e-4) / n)
            values[f"{split}/{name}"] = value
            values[f"{split}/{name}/ci_low"], values[f"{split}/{name}/ci_high"] = value - half, value + half
    mia = 0.45 + 0.3 * forget
    values |= {"mia/min_k": mia, "mia/min_k/ci_low": mia - 0.04, "mia/min_k/ci_high": mia + 0.04}
    values |= {"mia/loss": mia + 0.01, "mia/soul_compat": mia - 0.2}
    em_f, rouge_f = values["forget/exact_match"], values["forget/rouge_l_recall"]
    em_r, rouge_r = values["retain/exact_match"], values["retain/rouge_l_recall"]
    values["aggregate"] = float(np.mean([1 - em_f, 1 - rouge_f, 1 - mia, em_r, rouge_r]))
    return values


def lume_metrics(forget: float, retain: float, rng: np.random.Generator, rows: int) -> dict[str, float]:
    values: dict[str, float] = {}
    for split, level in (("forget", forget), ("retain", retain)):
        for part in (split, *(f"{split}/{task}" for task in TASKS)):
            values[f"{part}/n"] = rows if part == split else rows // 3
            for name in ("regurgitation", "knowledge"):
                value = float(np.clip(level + rng.normal(0, 0.02), 0, 1))
                values[f"{part}/{name}"] = value
                values[f"{part}/{name}/ci_low"], values[f"{part}/{name}/ci_high"] = value - 0.03, value + 0.03
    values |= {"mia/loss": 0.5 + forget / 2, "aggregate": (2 - 2 * forget + 1 - forget / 2 + 2 * retain) / 5}
    return values


def write_run(
    folder: Path,
    *,
    model: str = "tiny",
    data: str = "mini",
    method: str = "simu",
    mask: str | None = None,
    seed: int = 0,
    t: float = 0.3,
    m: int = 5,
    lr: object = "1e-5",
    weight: float | None = None,
    forget: float = 0.2,
    retain: float = 0.8,
    rows: int = 40,
    objective: str = "graddiff",
    overrides: tuple[str, ...] = (),
    finished: str = "2025-11-25T03:00:00+00:00",
    **more: object,
) -> Path:
    """One finished run. `forget` and `retain` are about what those splits score; `more` are settings."""
    mask = mask or CHOICES[method]
    rng = np.random.default_rng([seed, int(t * 100), m])
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("{}")
    metrics = lume_metrics if data == "lume" else tofu_metrics
    flat = metrics(forget, retain, rng, rows)
    flat |= {f"original/{k}": v for k, v in metrics(0.97, 0.98, np.random.default_rng(seed), rows).items()}
    (folder / "metrics.json").write_text(json.dumps(flat))
    selected = write_neurons(folder, t, mask)
    preset = {"objective.retain_weight": 0.3 if method == "fo_graddiff" else 2.0, "optimizer.lr": 1e-5}
    taken = {"optimizer.lr": lr, "objective.retain_weight": weight or preset["objective.retain_weight"]}
    provenance = {
        "schema": 2,
        "status": "completed",
        "benchmark": "lume" if data == "lume" else "qa",
        "method": method,
        "settings": settings(seed=seed, data=data, t=t, m=m, **taken, **more),
        "seeded": ["mask.seed"],
        "presets": {key: value for key, value in preset.items() if float(taken[key]) == value},
        "options": options(model=model, data=data, method=method, mask=mask, objective=objective),
        "switches": {"model": {"name": model}, "data": {"name": data}, "method": {"name": method}, "seed": seed},
        "config_digest": "0" * 20,
        "command": f"python -m simu.run {' '.join(overrides)}".strip(),
        "git": {"commit": "f" * 40, "dirty": False},
        "versions": {"simu": "0.1.0", "torch": "2.13.0"},
        "machine": {"system": "Linux", "processor": "a processor", "cores": 2, "gpus": []},
        "stages": {s: {"digest": "0" * 20, "seconds": 1.0, "cached": False} for s in ("target", "evaluation")},
        "mask": {"total": LAYERS * WIDTH, "selected": sum(selected), "per_layer": selected},
        "started": "2025-11-25T02:00:00+00:00",
        "finished": finished,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    write_lines(folder / "train_log.jsonl", training(rng))
    write_lines(folder / "generations.jsonl", generations(forget, retain, rng, rows, data))
    return folder


def write_neurons(folder: Path, t: float, mask: str) -> list[int]:
    """Attribution and mask with heavy tails; returns the selected neurons of each layer."""
    generator = torch.Generator().manual_seed(7)
    forget = torch.randn(LAYERS, WIDTH, generator=generator) ** 3
    retain = forget * 0.9 + 0.3 * torch.randn(LAYERS, WIDTH, generator=generator)
    chosen = forget > t * forget.amax(dim=1, keepdim=True)
    if mask == "all":
        chosen = torch.ones_like(chosen)
    if mask == "none":
        chosen = torch.zeros_like(chosen)
    save_file({"forget": forget, "retain": retain}, folder / "attribution.safetensors")
    save_file({"mask": chosen}, folder / "mask.safetensors")
    return [int(layer.sum()) for layer in chosen]


def training(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [
        {
            "step": s,
            "forget_loss": 0.1 + s * 0.3 + rng.normal(0, 0.05),
            "retain_loss": 0.1 + rng.random() * 0.05,
            "lr": 1e-5 * (1 - s / 20),
            "grad_norm": 1.0,
            "clipped_fraction": 0.9,
            "tokens_per_s": 1000.0,
        }
        for s in range(1, 21)
    ]


def generations(forget: float, retain: float, rng: np.random.Generator, rows: int, data: str) -> list[dict[str, Any]]:
    lines = []
    for split, level in (("forget", forget), ("retain", retain)):
        for i in range(rows):
            right = bool(rng.random() < level)
            scores = {"rouge_l_recall": float(np.clip(rng.normal(level, 0.1), 0, 1)), "exact_match": float(right)}
            if data == "lume":
                scores = {"regurgitation" if i % 2 else "knowledge": float(right)}
            answer, prompt = f"Author {i} wrote 100 % of it.", f"Who wrote book {i} & <more>?"
            said = answer if right else "the the the"
            lines.append(
                {
                    "id": f"{split}/{i}",
                    "split": split,
                    "prompt": prompt,
                    "answer": answer,
                    "generated": said,
                    "original": answer,
                    "scores": scores,
                }
            )
    return lines


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def paper_sweeps(root: Path, *, model: str = "tiny", data: str = "mini", seeds: int = 2) -> Path:
    """What the sweeps table1, figure2_m, figure3_t and figure5_masks leave under one folder."""
    levels = {"fo_graddiff": (0.5, 0.6), "so_graddiff": (0.1, 0.7), "simu": (0.12, 0.8)}
    base = (f"model={model}", f"data={data}")
    for i, (method, (forget, retain)) in enumerate(levels.items()):
        for seed in range(seeds):
            write_run(
                root / "table1" / str(i * seeds + seed),
                model=model,
                data=data,
                method=method,
                seed=seed,
                forget=forget,
                retain=retain,
                overrides=(*base, f"method={method}", f"seed={seed}"),
            )
    for i, t in enumerate((0.1, 0.5, 0.7, 0.9)):
        write_run(
            root / "figure3" / str(i),
            model=model,
            data=data,
            t=t,
            forget=0.1 + t / 5,
            retain=0.75 + t / 10,
            overrides=(*base, "method=simu", f"mask.t={t}"),
        )
    for i, m in enumerate((2, 3, 8, 10)):
        write_run(
            root / "figure2" / str(i),
            model=model,
            data=data,
            m=m,
            forget=0.2 - m / 100,
            retain=0.7 + m / 100,
            overrides=(*base, "method=simu", f"attribution.m={m}"),
        )
    for i, weight in enumerate((0.5, 1.0, 5.0)):
        words = (*base, "method=simu", f"objective.retain_weight={weight}")
        write_run(
            root / "figure4" / str(i),
            model=model,
            data=data,
            weight=weight,
            forget=0.05 + weight / 30,
            retain=0.6 + weight / 20,
            overrides=words,
        )
    for i, mask in enumerate(("forget_only", "contrastive", "soft", "random", "none")):
        write_run(
            root / "figure5" / str(i),
            model=model,
            data=data,
            mask=mask,
            forget=0.15 + i / 20,
            retain=0.8 - i / 30,
            overrides=(*base, "method=simu", f"mask={mask}"),
        )
    return root


def edit_record(folder: Path, **values: Any) -> None:
    """Change fields of a run's provenance.json; a mapping is merged into the one that is there."""
    path = folder / "provenance.json"
    record = json.loads(path.read_text())
    for key, value in values.items():
        record[key] = record[key] | value if isinstance(value, dict) and isinstance(record.get(key), dict) else value
    path.write_text(json.dumps(record))


@pytest.fixture(scope="session")
def edit() -> Callable[..., None]:
    """Change fields of a run's provenance.json: edit(folder, settings={"mask.t": 0.5})."""
    return edit_record


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Write one finished run: make_run(folder, method="simu", seed=1, t=0.3, …)."""
    return write_run


@pytest.fixture(scope="session")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweeps of tiny on mini (table1 with two seeds) and of OLMo on TOFU and LUME (one seed). Read only."""
    root = tmp_path_factory.mktemp("runs")
    paper_sweeps(root / "mini")
    for data in ("tofu", "lume"):
        paper_sweeps(root / data, model="olmo_1b", data=data, seeds=1)
    return root
