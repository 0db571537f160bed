"""What stands under a table: which definitions, which config, how many seeds, which code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simu.report import paper
from simu.report.groups import Group, show

INTERVALS = (
    "95 % intervals: over seeds (Student t, which may pass 0 or 1) where several ran, else over rows: bootstrap, or "
    "Wilson's where every row scored 0 or every row 1."
)
FEW = 4
ENCODER = "evaluator.embedding_model"
VARIANTS = {
    "data.forget": "forget",
    "data.retain_rows": "retain rows",
    "data.evaluation_rows": "rows a split",
    "data.fold": "fold",
    "data.mia_set": "MIA documents",
    "data.seam": "seam",
    "evaluator.compat": "definitions",
    "evaluator.tokenizer": "ROUGE's words",
    "evaluator.question_key": "question",
    "evaluator.few_shot": "shots",
    "evaluator.choice_scorer": "choice scorer",
    ENCODER: "encoder",
    "evaluator.mia_k": "min-k k",
    "evaluator.aggregate_em": "EM in the aggregate",
    "evaluator.aggregate_mia": "MIA in the aggregate",
    "evaluator.confidence": "confidence over rows",
}
USUAL = {"evaluator.question_key": "original", "evaluator.few_shot": 0}
"""Values that go without saying."""


def variants(groups: Iterable[Group]) -> list[str]:
    """Which EM, which attack, which fold: the switches of data and evaluator that a figure depends on."""
    found: dict[str, dict[str, None]] = {}
    for g in groups:
        read = [k for k in VARIANTS if k != ENCODER or g.settings.get("evaluator.choice_scorer") == "embedding"]
        said = [f"{VARIANTS[k]} {show(g.settings[k])}" for k in read if g.settings.get(k, USUAL.get(k)) != USUAL.get(k)]
        if said:
            found.setdefault(", ".join(said), {})[f"{g.model} on {g.place}"] = None
    return [f"Ours, {'; '.join(where)}: {said}." for said, where in found.items()]


def chosen(groups: Iterable[Group]) -> list[str]:
    """Of methods that ran with several settings: which are shown, by the first few settings in which they differed."""
    said = [f"{g.method} on {g.place}: {g.differs(FEW)}" for g in groups if g.varying]
    return [f"Of several configs the one nearest to its preset is shown ({'; '.join(said)})."] if said else []


def fewer(groups: Iterable[Group], keys: Sequence[str]) -> list[str]:
    """Means that lack a seed: its metric was missing, or no number."""
    found = [(g, key, e.seeds) for g in groups for key in keys if (e := g.estimate(key)) and e.seeds < g.seeds]
    return [
        f"{key} of {g.label()}, {g.model} on {g.place}: over {n} of {g.seeds} seeds, the others have none."
        for g, key, n in found
    ]


def commits(groups: Iterable[Group]) -> list[str]:
    """Rows whose seeds ran with different code."""
    mixed = [g for g in groups if len({str(run.provenance.get("git")) for run in g.runs}) > 1]
    named = ", ".join(dict.fromkeys(f"{g.label()} on {g.place}" for g in mixed))
    return [f"Seeds of one row ran at different commits (see Provenance): {named}."] if mixed else []


def warned(groups: Iterable[Group]) -> list[str]:
    """Which rows are of collapsed models, by which signs, and what their runs warned of."""
    found: list[str] = []
    for g in groups:
        name = f"{g.label()}, {g.model} on {g.place}"
        found += [f"Collapsed: {name}: {g.collapse}."] if g.collapse else []
        lines = [line for line in g.warnings() if not line.startswith("the model has collapsed")]
        more = f" (and {len(lines) - FEW} more warnings)" if len(lines) > FEW else ""
        found += [f"Warning of {name}: {' | '.join(lines[:FEW])}{more}"] if lines else []
    return found


def another(groups: Iterable[Group]) -> list[str]:
    """Groups of the paper's methods that are another method than the paper's."""
    known = {(row["data"], row["model"]) for row in paper.table5()}
    found = dict.fromkeys(
        f"{g.method} with {', '.join(f'{slot}={option}' for slot, option in g.foreign.items())}, {g.model} on {g.place}"
        for g in groups
        if g.foreign and (g.data, g.model) in known
    )
    return [f"Not what the paper printed, so without its figures: {'; '.join(found)}."] if found else []


def no_printed(groups: Sequence[Group]) -> list[str]:
    """Models and data that the paper has no figures for."""
    known = {(row["data"], row["model"]) for row in paper.table5()}
    others = dict.fromkeys(f"{g.model} on {g.data}" for g in groups if (g.data, g.model) not in known)
    return [f"The paper prints no figures for {', '.join(others)}."] if others else []
