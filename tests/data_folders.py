"""The smallest folders of TOFU and LUME, and files of one's own rows."""

from __future__ import annotations

import json
from pathlib import Path


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


TOFU = {
    "forget10": 2,
    "retain90": 4,
    "forget10_perturbed": 2,
    "retain_perturbed": 4,
    "holdout10": 2,
    "world_facts_perturbed": 2,
    "real_authors_perturbed": 2,
}
MORE = {"paraphrased_question": "P?", "paraphrased_answer": "P.", "perturbed_answer": ["x"]}


def tofu(folder: Path) -> Path:
    for name, count in TOFU.items():
        of = name[:4]  # a split and its perturbed file have the same rows
        rows = [{"question": f"Q{i} {of}?", "answer": f"A{i} {of}."} | MORE for i in range(count)]
        written(folder / f"{name}.json", json.dumps(rows))
    return folder


def lume(folder: Path) -> Path:
    for inner in ("folds", "mia"):
        (folder / inner).mkdir()
    for name in ("member", "nonmember"):
        written(folder / "mia" / f"{name}.jsonl", json.dumps({"document": name}))
    for side, first in (("forget", 0), ("retain", 100)):
        rows = [
            {"id": f"d{first + i}sc1", "input": f"In {first + i}", "output": "O", "task": "Task3"} for i in range(6)
        ]
        written(folder / f"{side}.jsonl", "\n".join(map(json.dumps, rows)))
        for k, fold in enumerate(("train", "validation", "heldout")):
            written(folder / "folds" / f"{side}_{fold}.txt", f"d{first + 2 * k}\nd{first + 2 * k + 1}\n")
    return folder


OWN = {"forget": "forget.jsonl", "retain": "retain.csv", "holdout": "holdout.csv"}
"""Fields of data=rows that name the files of examples/rows, and those that `own` writes."""
EXAMPLE = {"path": str(Path(__file__).parents[1] / "examples" / "rows"), **OWN}


def own(folder: Path) -> Path:
    for split, name in OWN.items():
        pairs = [(f"Q{i} {split}?", f"A{i} {split}.") for i in range(3)]
        lines = [json.dumps({"question": q, "answer": a}) for q, a in pairs]
        table = ["question,answer", *(",".join(pair) for pair in pairs)]
        written(folder / name, "\n".join(lines if name.endswith("jsonl") else table))
    return folder
