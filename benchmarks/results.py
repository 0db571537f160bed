"""The sweeps of docs/results.md, one after the other, and their tables as they stand there.

    python benchmarks/results.py FOLDER                      # what is not done yet runs; then every table
    python benchmarks/results.py FOLDER --only table1 masks  # some of them
    python benchmarks/results.py FOLDER --print              # nothing runs
    python benchmarks/results.py FOLDER --data PATH          # where the folders tofu and lume are, for these two

A sweep lies in FOLDER/NAME, the stages of all in FOLDER/cache: killed and started again, it goes on where it was.
`±` is 95 % over seeds (Student t), brackets are 95 % over rows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from simu.report.collect import collect
from simu.report.estimate import Estimate, neurons, of_metric
from simu.report.run import Run

SEEDS = "seed=0,1,2"
QA = {
    "aggregate ↑": "aggregate",
    "forget ROUGE-L ↓": "forget/rouge_l_recall",
    "retain ROUGE-L ↑": "retain/rouge_l_recall",
    "retain EM ↑": "retain/exact_match",
    "world facts ↑": "world_facts/contains_answer",
    "MIA →0.5": "mia/min_k",
    "repetition ↓": "forget/repetition_rate",
}
GRADE = {"aggregate, fair ↑": "aggregate_fair"} | {k: v for k, v in QA.items() if k != "retain EM ↑"}
UTILITY = {
    "forget quality ↑": "forget_quality",
    "model utility ↑": "model_utility",
    "MIA, reference attack →0.5": "mia/reference",
}
LUME = {
    "aggregate ↑": "aggregate",
    "task aggregate ↑": "task_aggregate",
    "forget Reg ↓": "forget/regurgitation",
    "forget Kno ↓": "forget/knowledge",
    "retain Reg ↑": "retain/regurgitation",
    "retain Kno ↑": "retain/knowledge",
    "MIA loss →0.5": "mia/loss",
    "repetition ↓": "forget/repetition_rate",
}


FOUND = {
    "AUC, planted against decoys": "localisation/auc",
    "against all": "localisation/auc_all",
    "precision at as many": "localisation/precision_at_count",
    "of the mask": "localisation/precision",
    "recall": "localisation/recall",
    "AUC of the norm": "localisation/weight_norm/auc",
    "against all ": "localisation/weight_norm/auc_all",
}
MOVED = {
    "planted share of the mask": "localisation/precision",
    "AUC of what moved": "change/auc",
    "moved outside": "change/outside",
    "aggregate, fair ↑": "aggregate_fair",
    "forget ROUGE-L ↓": "forget/rouge_l_recall",
    "retain ROUGE-L ↑": "retain/rouge_l_recall",
    "world facts ↑": "world_facts/contains_answer",
    "MIA →0.5": "mia/min_k",
}
UNLEARNED = ("attribution.unit=row", "stages=[target,attribution,mask,unlearning,evaluation]")


@dataclass(frozen=True)
class Sweep:
    """A command, and the table that it gives: a line for each value of what it sweeps over."""

    words: Sequence[str]
    by: Sequence[str]
    """Overrides that tell the lines apart."""
    columns: dict[str, str]
    """Heading → metric."""
    before: bool = True
    """A line for the model before unlearning."""


SWEEPS = {
    "table1": Sweep(("+sweep=table1", SEEDS), ("method",), QA),
    "masks": Sweep(("+sweep=figure5_masks", SEEDS), ("mask",), QA, before=False),
    "t": Sweep(("+sweep=figure3_t",), ("mask.t",), QA, before=False),
    "m": Sweep(("+sweep=figure2_m",), ("attribution.m",), QA, before=False),
    "lambda": Sweep(
        ("+sweep=figure4", "objective.retain_weight=10.0,20.0,30.0,50.0"),
        ("method", "objective.retain_weight"),
        QA,
        before=False,
    ),
    "objectives": Sweep(
        (
            "objective=graddiff,npo,simnpo",
            "optimizer=adamw,sophia",
            "mask=dual,random,none",
            "optimizer.lr=5e-4",
        ),
        ("objective", "optimizer", "mask"),
        QA,
        before=False,
    ),
    "tofu": Sweep(
        ("+sweep=table1", "data=tofu", "data.path=DATA/tofu", "retain_reference=true"), ("method",), QA | UTILITY
    ),
    "lume": Sweep(("+sweep=table1", "data=lume", "data.path=DATA/lume"), ("method",), LUME),
    "localisation": Sweep(("+sweep=localisation",), ("attribution.unit", "attribution"), FOUND, before=False),
    "localised": Sweep(
        ("+sweep=localisation", "attribution=integrated,random,activation,snip,grad_norm", *UNLEARNED),
        ("attribution",),
        MOVED,
        before=False,
    ),
    "planted": Sweep(
        ("+sweep=localisation", "attribution=integrated", *UNLEARNED, "mask=planted,none", "~mask.share"),
        ("mask",),
        MOVED,
    ),
    "optimizer_grade": Sweep(("+sweep=optimizer_grade",), ("optimizer", "mask"), GRADE, before=False),
    "adamw_searched": Sweep(
        ("+sweep=optimizer_grade", "optimizer=adamw", "optimizer.lr=5e-4"),
        ("optimizer", "optimizer.lr", "mask"),
        GRADE,
        before=False,
    ),
    "zo_faster": Sweep(
        ("+sweep=optimizer_grade", "optimizer=zo", "optimizer.lr=100"),
        ("optimizer", "optimizer.lr", "mask"),
        GRADE,
        before=False,
    ),
    "perturbations": Sweep(
        ("+sweep=optimizer_grade", "optimizer=sophia", "perturbation=none,sam,smoothing"),
        ("perturbation", "mask"),
        GRADE,
        before=False,
    ),
    "search": Sweep(
        ("+sweep=search", "seed=3,4,5"), ("method", "optimizer.lr", "objective.retain_weight"), QA, before=False
    ),
}


def main() -> None:
    options = arguments()
    for name in options.only or SWEEPS:
        sweep, folder = SWEEPS[name], options.folder / name
        if not options.print and not (folder / "done").exists():
            run(sweep, folder, options.folder / "cache", options.data)
        print(f"\n## {name}\n\npython -m simu.run -m {' '.join(sweep.words)}\n")
        if list(folder.glob("out/*/metrics.json")):
            print("\n".join(table(sweep, folder)), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where sweeps and cache lie; made if need be")
    parser.add_argument("--only", nargs="+", choices=SWEEPS, help="these sweeps alone")
    parser.add_argument("--print", action="store_true", help="run nothing")
    parser.add_argument("--data", default="../shared/data", help="folder of the folders tofu and lume")
    return parser.parse_args()


def run(sweep: Sweep, folder: Path, cache: Path, data: str) -> None:
    """The sweep's jobs; their output goes to a file. A sweep of which a job failed is not marked as done."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [word.replace("DATA", str(Path(data).resolve())) for word in sweep.words]
    place = [f"hydra.sweep.dir={folder.resolve()}/out", f"cache_dir={cache.resolve()}"]
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "simu.run", "-m", *words, *place]
        if subprocess.run(command, stdout=log, stderr=log, env=os.environ).returncode == 0:
            (folder / "done").touch()


def table(sweep: Sweep, folder: Path) -> Iterator[str]:
    """Lines of a markdown table."""
    lines: dict[tuple[str, ...], list[Run]] = {}
    runs, _ = collect([folder / "out"])
    for one in runs:
        lines.setdefault(tuple(overrides(one).get(key, "") for key in sweep.by), []).append(one)
    headings = (*(key.rpartition(".")[2] for key in sweep.by), "neurons", "seeds", *sweep.columns)
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    if sweep.before:
        first = min(lines.values(), key=lambda of: of[0].path)
        cells = [shown(of_metric(first, f"original/{metric}")) for metric in sweep.columns.values()]
        yield f"| {' | '.join(['before unlearning', *[''] * len(sweep.by), '', *cells])} |"
    for key, of in sorted(lines.items(), key=lambda line: order(line[0])):
        cells = [shown(of_metric(of, metric)) for metric in sweep.columns.values()]
        yield f"| {' | '.join((*(f'`{word}`' for word in key), count(of), str(len(of)), *cells))} |"


def overrides(run: Run) -> dict[str, str]:
    words = yaml.safe_load((run.path / ".hydra" / "overrides.yaml").read_text())
    return dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)


def order(key: tuple[str, ...]) -> tuple[tuple[int, float, str], ...]:
    """Numbers by size, after words."""
    return tuple(
        (1, float(word), "") if word.replace(".", "").replace("e-", "").isdigit() else (0, 0, word) for word in key
    )


def count(runs: Sequence[Run]) -> str:
    """Neurons that trained, the mean over seeds, of how many."""
    found = [pair for one in runs if (pair := neurons(one))]
    return f"{sum(n for n, _ in found) / len(found):.0f} of {found[0][1]}" if found else ""


def shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:.3g}" if 0 < abs(estimate.mean) < 1e-3 else f"{estimate.mean:.3f}"
    if estimate.over == "seeds":
        return f"{estimate.mean:.3f} ± {(estimate.high - estimate.low) / 2:.3f}"
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
