"""Where the benchmarks' rows are, and how many there are: the published ones where this machine has them, else ten-row
fixtures in the same layout, all of whose rows were written for this project."""

from __future__ import annotations

import os
from pathlib import Path

PUBLISHED = Path(os.environ.get("SIMU_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))
FIXTURES = Path(__file__).parent / "fixtures"

Tally = dict[tuple[str, str], int]


def folder(benchmark: str) -> Path:
    published = PUBLISHED / benchmark
    return published if published.is_dir() else FIXTURES / benchmark


def published(path: Path) -> bool:
    """Whether a folder holds the published rows."""
    return path.parent != FIXTURES


def by_task(documents: tuple[int, int, int]) -> Tally:
    """Rows by (task, kind) of so many documents of Task1, Task2, Task3: each is a completion (sc1) and one question,
    or in Task2 five (birth date, SSN, phone, e-mail, address)."""
    return {
        (f"Task{i + 1}", kind): count
        for i, count in enumerate(documents)
        for kind in ("sc1", *(f"qa{k}" for k in range(5 if i == 1 else 1)))
    }


def lume_documents(path: Path) -> dict[str, tuple[int, int, int]]:
    """Of the heldout fold, by side. Published: the cells of the paper's Table 2 are fractions of these."""
    if published(path):
        return {"forget": (116, 96, 143), "retain": (91, 100, 135)}
    return {"forget": (1, 1, 2), "retain": (1, 1, 2)}


def lume_rows(path: Path) -> dict[str, tuple[int, int]]:
    """Forget and retain rows of a fold."""
    if published(path):
        return {"train": (1112, 1136), "validation": (254, 278), "heldout": (1094, 1052), "all": (2732, 2734)}
    return dict.fromkeys(("train", "validation", "heldout"), (12, 12)) | {"all": (36, 36)}


def lume_public(path: Path) -> tuple[int, int]:
    """Members and non-members of the public membership set."""
    return (150, 150) if published(path) else (2, 2)


def tofu_rows(path: Path, forget: str) -> dict[str, int]:
    """Rows of each split when `forget` percent of the authors are forgotten."""
    if published(path):
        count = 40 * int(forget)
        return {"forget": count, "retain": 4000 - count, "evaluated": 400, "world_facts": 117, "real_authors": 100}
    count = {"01": 2, "05": 5, "10": 10}[forget]
    return {"forget": count, "retain": 20 - count, "evaluated": 10, "world_facts": 10, "real_authors": 10}
