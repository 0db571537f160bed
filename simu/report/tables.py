"""Tables 1–5 of the paper with the printed figure and the difference under ours, and tables of every run.

A table is data: columns, rows, notes. How it looks on a terminal or in md, csv, tex and html is in render.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from simu.report import paper
from simu.report.collect import Run
from simu.report.groups import Estimate, Group, neurons, over_seeds, show

Cell = str | int | float | Estimate | None
MASKS = ("dual", "forget_only", "contrastive", "soft", "random", "none", "all", "all weights")
METHODS = ("original", "fo_graddiff", "so_graddiff", "simu")
SPLITS = {"forget": "forget", "retain": "retain", "world_facts": "world facts", "real_authors": "real authors"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its label, the header that spans it, and which direction is better."""

    label: str
    span: str = ""
    better: Literal["lower", "higher", ""] = ""
    style: Literal["text", "score", "percent", "count"] = "text"
    signed: bool = False
    """A difference: +0.0317."""
    main: bool = False
    """Kept where a terminal has no room for every column."""


@dataclass(frozen=True)
class Row:
    """ours: what runs gave; paper: printed; difference: ours − printed."""

    cells: tuple[Cell, ...]
    kind: Literal["ours", "paper", "difference"] = "ours"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A finished table; every cell an Estimate, a number, a text or None (nothing to show)."""

    name: str
    """Of its files: 'table1'."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Score:
    """A column of Tables 1 and 2: where our figure comes from and which printed column it answers to."""

    metric: str
    label: str
    span: str
    better: Literal["lower", "higher"]
    printed: str = ""
    main: bool = False


INTERVALS = "95 % intervals: over seeds (Student t, which may pass 0 or 1) where several ran, else bootstrap over rows."

TABLE1 = (
    Score(metric="aggregate", label="Aggregate", span="", better="higher", printed="aggregate", main=True),
    Score(metric="forget/choice_accuracy", label="EM (choice)", span="Forget", better="lower", printed="forget_em"),
    Score(metric="forget/exact_match", label="EM (string)", span="Forget", better="lower"),
    Score(
        metric="forget/rouge_l_recall",
        label="ROUGE-L",
        span="Forget",
        better="lower",
        printed="forget_rouge_l",
        main=True,
    ),
    Score(metric="mia/soul_compat", label="SOUL order", span="MIA AUC", better="lower", printed="mia"),
    Score(metric="mia/min_k", label="min-k", span="MIA AUC", better="lower", main=True),
    Score(metric="retain/choice_accuracy", label="EM (choice)", span="Retain", better="higher", printed="retain_em"),
    Score(metric="retain/exact_match", label="EM (string)", span="Retain", better="higher"),
    Score(
        metric="retain/rouge_l_recall",
        label="ROUGE-L",
        span="Retain",
        better="higher",
        printed="retain_rouge_l",
        main=True,
    ),
    Score(
        metric="world_facts/contains_answer",
        label="EM (contains)",
        span="World facts",
        better="higher",
        printed="world_facts_em",
    ),
    Score(
        metric="world_facts/rouge_l_recall",
        label="ROUGE-L",
        span="World facts",
        better="higher",
        printed="world_facts_rouge_l",
    ),
)


def _lume(split: str, better: Literal["lower", "higher"], task: str = "") -> tuple[Score, ...]:
    span = f"{split.title()}{f', task {task[-1]}' if task else ''}"
    above, printed = (f"{split}/{task}", f"{split}_{task.lower()}") if task else (split, split)
    return (
        Score(
            metric=f"{above}/regurgitation", label="Reg", span=span, better=better, printed=f"{printed}_reg", main=True
        ),
        Score(metric=f"{above}/knowledge", label="Kno", span=span, better=better, printed=f"{printed}_kno", main=True),
    )


TASKS = ("Task1", "Task2", "Task3")
TABLE2 = (
    Score(metric="aggregate", label="Aggregate", span="", better="higher", printed="aggregate", main=True),
    *_lume("forget", "lower"),
    Score(metric="mia/loss", label="loss", span="MIA AUC", better="lower", printed="mia"),
    *_lume("retain", "higher"),
)
OFFICIAL = (
    Score(metric="task_aggregate", label="Task aggregate", span="SemEval", better="higher"),
    Score(metric="mia_final", label="MIA final", span="SemEval", better="higher"),
    Score(metric="mmlu", label="MMLU", span="SemEval", better="higher"),
    Score(metric="official_final", label="Final", span="SemEval", better="higher"),
)
BEYOND = (
    Score(metric="forget_quality", label="Forget quality", span="TOFU", better="higher"),
    Score(metric="model_utility", label="Model utility", span="TOFU", better="higher"),
    Score(metric="forget/probability", label="Probability", span="Forget", better="lower"),
    Score(metric="forget/truth_ratio", label="Truth ratio", span="Forget", better="higher"),
    Score(metric="forget/extraction_strength", label="Extraction", span="Forget", better="lower"),
    Score(metric="forget/repetition_rate", label="Repetition", span="Forget", better="lower"),
    Score(metric="forget/empty", label="Empty", span="Forget", better="lower"),
    Score(metric="retain/probability", label="Probability", span="Retain", better="higher"),
    Score(metric="retain/truth_ratio", label="Truth ratio", span="Retain", better="higher"),
    Score(metric="retain/repetition_rate", label="Repetition", span="Retain", better="lower"),
    Score(metric="retain/empty", label="Empty", span="Retain", better="lower"),
)
TABLE2_TASKS = tuple(s for task in TASKS for s in _lume("forget", "lower", task)) + tuple(
    s for task in TASKS for s in _lume("retain", "higher", task)
)


def is_lume(g: Group) -> bool:
    return any("regurgitation" in metric for metric in g.metrics())


def paper_tables(groups: Sequence[Group], before: Sequence[Group]) -> list[Table]:
    """Tables 1–5 over the groups that ran each method with the fewest changes to its preset; empty ones left out."""
    nearest = nearest_to_preset([g for g in groups if g.evaluated])
    shown = [g for g in [*before, *nearest] if g.method in METHODS]
    shown.sort(key=lambda g: (g.place, g.model, METHODS.index(g.method)))
    run = [g for g in nearest_to_preset(groups) if g.method in METHODS]
    run.sort(key=lambda g: (g.place, g.model, METHODS.index(g.method)))
    tofu, lume = [g for g in shown if not is_lume(g)], [g for g in shown if is_lume(g)]
    tables = [
        scores(
            "table1",
            "Table 1: question answering (TOFU)",
            TABLE1,
            tofu,
            paper.table1(),
            (paper.EM_NOTE, paper.AGGREGATE_NOTE, paper.MIA_NOTE),
        ),
        scores("table2", "Table 2: LUME, all tasks", TABLE2, lume, paper.table2()),
        scores("table2_tasks", "Table 2, continued: LUME by task", TABLE2_TASKS, lume, paper.table2()),
        scores("beyond", "Beyond the paper: likelihood, utility and over-forgetting", (*OFFICIAL, *BEYOND), shown, []),
        settings("table3", "Table 3: mask settings", TABLE3, [g for g in run if g.method == "simu"], paper.table3()),
        settings("table4", "Table 4: unlearning settings", TABLE4, run, paper.table4()),
        critical_neurons([g for g in groups if g.method == "simu"]),
    ]
    return [
        table
        for table in tables
        if any(c.style in ("score", "percent") or c.label in LABELS.values() for c in table.columns)
    ]


def nearest_to_preset(groups: Sequence[Group]) -> list[Group]:
    """For each model, place and method the group with the fewest overridden settings, then the most seeds."""
    best: dict[tuple[str, str, str], Group] = {}
    for g in groups:
        key = (g.model, g.place, g.method)
        if key not in best or _distance(g) < _distance(best[key]):
            best[key] = g
    return list(best.values())


def by_mask(groups: Sequence[Group]) -> dict[str, Group]:
    """For each kind of mask, in MASKS' order, the group nearest to its preset; SIMU's where several methods use it."""
    found: dict[str, Group] = {}
    for g in sorted(groups, key=lambda g: (mask_rank(g.mask), g.method != "simu")):
        if g.mask not in found:
            like = [o for o in groups if (o.mask, o.method, o.place, o.model) == (g.mask, g.method, g.place, g.model)]
            found[g.mask] = nearest_to_preset(like)[0]
    return found


def by_place(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups that were asked the same, by place and model."""
    found: dict[tuple[str, str], list[Group]] = {}
    for g in groups:
        found.setdefault((g.place, g.model), []).append(g)
    return [found[key] for key in sorted(found)]


def mask_rank(mask: str) -> int:
    return MASKS.index(mask) if mask in MASKS else len(MASKS)


def scores(
    name: str,
    title: str,
    layout: Sequence[Score],
    groups: Sequence[Group],
    printed: list[paper.Row],
    notes: tuple[str, ...] = (),
) -> Table:
    """Metrics of the groups, and under each the printed row and the difference where the paper has it."""
    rows: list[Row] = []
    odd: dict[str, list[str]] = {}
    for g in groups:
        ours = [g.estimate(score.metric) for score in layout]
        labels: tuple[Cell, ...] = (g.place, g.model, g.method, g.mask)
        rows.append(Row((*labels, "ours", *ours, counts(g), g.seeds)))
        found = paper.find(printed, data=g.data, model=g.model, method=g.method)
        if found:
            theirs = [_number(found.get(score.printed)) for score in layout]
            gaps = [
                o.mean - p if o and p is not None and _comparable(g, s) else None
                for s, o, p in zip(layout, ours, theirs, strict=True)
            ]
            rows.append(Row((*labels, "paper", *theirs, None, None), "paper"))
            rows.append(Row((*labels, "difference", *gaps, None, None), "difference"))
            if found["note"]:
                odd.setdefault(str(found["note"]), []).append(f"{g.model}, {g.method}")
    columns = (
        *(Column(label=label) for label in ("data", "model", "method", "mask", "")),
        *(Column(label=s.label, span=s.span, better=s.better, style="score", main=s.main) for s in layout),
        Column(label="n rows"),
        Column(label="seeds", style="count"),
    )
    names = {score.printed for score in layout}  # a note starts with the printed column that it is about
    has_printed = any(row.kind == "paper" for row in rows)
    said = [f"Paper, {'; '.join(where)}: {note}." for note, where in odd.items() if note.split(":")[0] in names]
    remarks = (
        INTERVALS,
        *variants(groups),
        *_chosen(groups),
        *_fewer(groups, layout),
        *_commits(groups),
        *(notes if has_printed else ()),
        *said,
        *_no_printed(groups),
    )
    return _without_empty(Table(name=name, title=title, columns=columns, rows=tuple(rows), notes=remarks))


def _comparable(g: Group, score: Score) -> bool:
    """Whether ours is made as the printed figure is: an aggregate of other parts is no difference from it."""
    parts = [g.settings.get(f"evaluator.aggregate_{part}") for part in ("em", "mia")]
    return score.metric != "aggregate" or parts in ([None, None], ["choice_accuracy", "soul_compat"])


def counts(g: Group) -> str:
    """'forget 400, retain 400': the rows a run scored, by split."""
    return ", ".join(f"{name} {n}" for split, name in SPLITS.items() if (n := g.rows(split)))


TABLE3 = {"t": "mask.t", "m": "attribution.m", "batch_size": "attribution.batch_size"}
TABLE4 = {
    "forget_examples": "",
    "batch_size": "training.batch_size",
    "learning_rate": "optimizer.lr",
    "epochs": "training.epochs",
    "retain_weight": "objective.retain_weight",
}
LABELS = {
    "t": "t",
    "m": "m",
    "batch_size": "batch size",
    "forget_examples": "forget examples",
    "learning_rate": "learning rate",
    "epochs": "epochs",
    "retain_weight": "λ (retain)",
}


def settings(name: str, title: str, layout: dict[str, str], groups: Sequence[Group], printed: list[paper.Row]) -> Table:
    """Settings of the groups beside the printed ones."""
    by_method = "method" in printed[0]
    rows: list[Row] = []
    said: list[str] = []
    for g in groups:
        ours = [_setting(g, key) for key in layout.values()]
        labels: tuple[Cell, ...] = (g.place, g.model, *([g.method] if by_method else []))
        rows.append(Row((*labels, "ours", *ours)))
        keys: dict[str, paper.Value] = {"data": g.data, "model": g.model}
        keys |= {"method": g.method} if by_method else {}
        if found := paper.find(printed, **keys):
            theirs = [_number(found[column]) for column in layout]
            gaps = [
                float(o) - p if isinstance(o, int | float) and p is not None else None
                for o, p in zip(ours, theirs, strict=True)
            ]
            rows.append(Row((*labels, "paper", *map(_plain, theirs)), "paper"))
            rows.append(Row((*labels, "difference", *map(_plain, gaps)), "difference"))
            if found["note"]:
                said.append(f"Paper, {', '.join(map(str, keys.values()))}: {found['note']}.")
    heads = ("data", "model", "method", "") if by_method else ("data", "model", "")
    columns = (*(Column(label=h) for h in heads), *(Column(label=LABELS[column]) for column in layout))
    return _without_empty(
        Table(name=name, title=title, columns=columns, rows=tuple(rows), notes=(*said, *_no_printed(groups)))
    )


SHARES = (
    "Intervals: 95 %, over seeds (Student t, which may pass 0 or all). Shares are computed from the counts, for the "
    "paper's rows too."
)


def critical_neurons(groups: Sequence[Group]) -> Table:
    """Table 5: how many MLP neurons train, for each kind of mask; the paper's count is that of the mask `dual`."""
    rows: list[Row] = []
    for g in [g for same in by_place(groups) for g in by_mask(same).values()]:
        found = [c for run in g.runs if (c := neurons(run))]
        if not found:
            continue
        total, selected = found[0][1], [c for c, _ in found]
        low, high = over_seeds(selected) if len(selected) > 1 else (None, None)
        mean = sum(selected) / len(selected)
        ours = Estimate(mean=mean, low=low, high=high, seeds=len(selected), over="seeds" if low is not None else "")
        t = show(_setting(g, "mask.t"))
        rows.append(Row((g.place, g.model, g.mask, t, "ours", total, ours, mean / total, len(selected))))
        if g.mask == "dual" and (row := paper.find(paper.table5(), data=g.data, model=g.model)):
            n, of = int(row["critical_mlp_neurons"]), int(row["total_mlp_neurons"])
            rows.append(Row((g.place, g.model, g.mask, t, "paper", of, n, n / of, None), "paper"))
            rows.append(
                Row(
                    (g.place, g.model, g.mask, t, "difference", total - of, mean - n, mean / total - n / of, None),
                    "difference",
                )
            )
    columns = (
        *(Column(label=label) for label in ("data", "model", "mask", "t", "")),
        Column(label="MLP neurons", style="count"),
        Column(label="critical", style="count"),
        Column(label="share", style="percent"),
        Column(label="seeds", style="count"),
    )
    notes = (SHARES, *_no_printed(groups))
    return Table(name="table5", title="Table 5: critical MLP neurons", columns=columns, rows=tuple(rows), notes=notes)


def run_tables(groups: Sequence[Group], before: Sequence[Group]) -> list[Table]:
    """Every config that ran, method × mask, one table for each shape of metrics."""
    kinds: list[tuple[str, str, Sequence[Score], Callable[[Group], bool]]] = [
        ("runs_qa", "Every run, method × mask: question answering", TABLE1, lambda g: not is_lume(g)),
        ("runs_lume", "Every run, method × mask: LUME", TABLE2, is_lume),
    ]
    tables = []
    for name, title, layout, belongs in kinds:
        chosen = sorted((g for g in [*before, *groups] if g.evaluated and belongs(g)), key=_order)
        rows = []
        for g in chosen:
            values = [g.estimate(score.metric) for score in layout]
            labels = (g.place, g.model, g.method, g.mask, g.differs())
            rows.append(Row((*labels, g.share_selected(), *values, counts(g), g.seeds)))
        columns = (
            *(Column(label=label) for label in ("data", "model", "method", "mask", "settings")),
            Column(label="neurons", style="percent", main=True),
            *(Column(label=s.label, span=s.span, better=s.better, style="score", main=s.main) for s in layout),
            Column(label="n rows"),
            Column(label="seeds", style="count", main=True),
        )
        notes = (INTERVALS, *variants(chosen), *_fewer(chosen, layout), *_commits(chosen))
        table = Table(name=name, title=title, columns=columns, rows=tuple(rows), notes=notes)
        if rows:
            tables.append(_without_empty(table))
    return tables


def all_metrics(groups: Iterable[Group]) -> Table:
    """Every metric of every config, one line each: what the other tables leave out."""
    rows = [
        Row((g.place, g.model, g.method, g.mask, g.differs(), metric, g.estimate(metric), e.n, e.seeds))
        for g in groups
        for metric in g.metrics()
        if (e := g.estimate(metric))
    ]
    columns = (
        *(Column(label=label) for label in ("data", "model", "method", "mask", "settings", "metric")),
        Column(label="value", style="score"),
        Column(label="n rows", style="count"),
        Column(label="seeds", style="count"),
    )
    return Table(name="metrics", title="Every metric", columns=columns, rows=tuple(rows), notes=(INTERVALS,))


FEW = 4
VARIANTS = {
    "data.forget": "forget",
    "data.retain_rows": "retain rows",
    "data.evaluation_rows": "rows a split",
    "data.fold": "fold",
    "data.mia_set": "MIA documents",
    "data.seam": "seam",
    "evaluator.compat": "definitions",
    "evaluator.choice_scorer": "choice scorer",
    "evaluator.mia_k": "min-k k",
    "evaluator.aggregate_em": "EM in the aggregate",
    "evaluator.aggregate_mia": "MIA in the aggregate",
    "evaluator.confidence": "confidence over rows",
}


def variants(groups: Iterable[Group]) -> list[str]:
    """Which EM, which attack, which fold: the switches of data and evaluator that a figure depends on."""
    found: dict[str, dict[str, None]] = {}
    for g in groups:
        said = [f"{name} {show(g.settings[k])}" for k, name in VARIANTS.items() if g.settings.get(k) is not None]
        if said:
            found.setdefault(", ".join(said), {})[f"{g.model} on {g.place}"] = None
    return [f"Ours, {'; '.join(where)}: {said}." for said, where in found.items()]


def _chosen(groups: Iterable[Group]) -> list[str]:
    """Of methods that ran with several settings: which are shown, by the first few settings in which they differed."""
    said = [f"{g.method} on {g.place}: {g.differs(FEW)}" for g in groups if g.varying]
    return [f"Of several configs the one nearest to its preset is shown ({'; '.join(said)})."] if said else []


def _fewer(groups: Iterable[Group], layout: Sequence[Score]) -> list[str]:
    """Means that lack a seed: its metric was missing, or no number."""
    found = [(g, s, e.seeds) for g in groups for s in layout if (e := g.estimate(s.metric)) and e.seeds < g.seeds]
    return [
        f"{s.metric} of {g.label()}, {g.model} on {g.place}: over {n} of {g.seeds} seeds, the others have none."
        for g, s, n in found
    ]


def _commits(groups: Iterable[Group]) -> list[str]:
    """Rows whose seeds ran with different code."""
    mixed = [g for g in groups if len({str(run.provenance.get("git")) for run in g.runs}) > 1]
    named = ", ".join(dict.fromkeys(f"{g.label()} on {g.place}" for g in mixed))
    return [f"Seeds of one row ran at different commits (see Provenance): {named}."] if mixed else []


def _no_printed(groups: Sequence[Group]) -> list[str]:
    known = {(row["data"], row["model"]) for row in paper.table5()}
    others = dict.fromkeys(f"{g.model} on {g.data}" for g in groups if (g.data, g.model) not in known)
    return [f"The paper prints no figures for {', '.join(others)}."] if others else []


def _setting(g: Group, key: str) -> Cell:
    """A setting as a number where it is one; the number of forget rows where the table asks for no key."""
    if not key:
        return None if g.settings.get("data.evaluation_rows") else g.rows("forget")
    value = g.settings.get(key)
    return value if isinstance(value, int | float | str) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def file_name(text: str) -> str:
    """'mini (forget_offset=4)' → 'mini_forget_offset=4'."""
    return re.sub(r"[^\w.=-]+", "_", text).strip("_")[:80]


def _plain(value: float | None) -> Cell:
    """A difference or a printed setting without the noise of floats: 2.0 → 2, 1.0000000000000005e-06 → 1e-06."""
    return None if value is None else float(f"{value:.6g}")


def _distance(g: Group) -> tuple[int, int, int]:
    """Settings that differ from the preset (those with a dot, and options of slots that a method picks), then the
    mask, then seeds."""
    return min(map(_changed, g.runs)), mask_rank(g.mask), -g.seeds


def _changed(run: Run) -> int:
    """Overrides of a run, without those that say what its preset says."""
    slots = ("attribution", "mask", "objective", "optimizer", "selection", "training")
    preset, ours = run.preset(), run.settings()
    keys = {o.lstrip("+~").partition("=")[0] for o in run.overrides}
    return sum(k.split(".", 1)[0] in slots and not (k in preset and ours.get(k) == preset[k]) for k in keys)


def _order(g: Group) -> tuple[object, ...]:
    known = METHODS.index(g.method) if g.method in METHODS else len(METHODS)
    numbers = [v if isinstance(v, int | float) else 0.0 for v in map(g.settings.get, g.varying)]
    return g.place, g.model, known, g.method, g.mask, numbers


def compact(table: Table) -> Table:
    """Labels that are the same in every row (data, model, n rows, seeds) said once, above the other notes."""
    ours = [row.cells for row in table.rows if row.kind == "ours"]
    labels = [i for i, c in enumerate(table.columns) if c.label in REPEATED and len({row[i] for row in ours}) == 1]
    if len(ours) < 2 or not labels:
        return table
    if len(ours) < len(table.rows) or any(
        row[i] not in ("", "ours") for row in ours[:1] for i in labels if not table.columns[i].label
    ):
        labels = [i for i in labels if table.columns[i].label]  # ours, paper and difference; or a verdict
    said = [f"{table.columns[i].label} {ours[0][i]}" for i in labels if table.columns[i].label]
    kept = [i for i, _ in enumerate(table.columns) if i not in labels]
    return with_columns(table, kept, (f"Every row: {'; '.join(said)}.", *table.notes) if said else table.notes)


REPEATED = ("", "data", "model", "n rows", "seeds")


def with_columns(table: Table, kept: Sequence[int], notes: tuple[str, ...]) -> Table:
    return Table(
        name=table.name,
        title=table.title,
        notes=notes,
        columns=tuple(table.columns[i] for i in kept),
        rows=tuple(Row(tuple(row.cells[i] for i in kept), row.kind) for row in table.rows),
    )


def _without_empty(table: Table) -> Table:
    """Drop columns in which no row has anything to say."""
    kept = [i for i, _ in enumerate(table.columns) if any(row.cells[i] not in (None, "") for row in table.rows)]
    return with_columns(table, kept, table.notes)
