"""Tables 3, 4 and 5: settings and critical neurons beside the printed ones."""

from __future__ import annotations

from collections.abc import Sequence

from simu.report import paper
from simu.report.estimate import Estimate, neurons, of_seeds
from simu.report.groups import Group, show
from simu.report.nearest import SELECTIVE, by_mask, by_place, nearest_to_preset
from simu.report.table import WHERE, Cell, Column, Row, Table, counted, texts, without_empty
from simu.report.tables import notes
from simu.report.tables.labels import slots_shown
from simu.report.tables.scores import of_paper

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


def setting_tables(groups: Sequence[Group]) -> list[Table]:
    """Tables 3 and 4, of each method nearest to its preset, and Table 5, of every kind of mask."""
    shown = of_paper(nearest_to_preset(groups))
    selective = [g for g in shown if g.method == SELECTIVE]
    return [
        settings("table3", "Table 3: mask settings", TABLE3, selective, paper.table3()),
        settings("table4", "Table 4: unlearning settings", TABLE4, shown, paper.table4()),
        critical_neurons([g for g in groups if g.method == SELECTIVE]),
    ]


def settings(name: str, title: str, layout: dict[str, str], groups: Sequence[Group], printed: list[paper.Row]) -> Table:
    """Settings of the groups beside the printed ones."""
    by_method = "method" in printed[0]
    slots = slots_shown(groups)
    rows: list[Row] = []
    said: list[str] = []
    for g in groups:
        ours = [_setting(g, key) for key in layout.values()]
        labels: tuple[Cell, ...] = (g.place, g.model, *([g.method] if by_method else []), *map(g.option, slots))
        rows.append(Row((*labels, "ours", *ours)))
        keys: dict[str, paper.Value] = {"data": g.data, "model": g.model}
        keys |= {"method": g.method} if by_method else {}
        if found := None if g.foreign else paper.find(printed, **keys):
            theirs = [paper.number(found[column]) for column in layout]
            gaps = [
                float(o) - p if isinstance(o, int | float) and p is not None else None
                for o, p in zip(ours, theirs, strict=True)
            ]
            rows.append(Row((*labels, "paper", *map(_plain, theirs)), "paper"))
            rows.append(Row((*labels, "difference", *map(_plain, gaps)), "difference"))
            if found["note"]:
                said.append(f"Paper, {', '.join(map(str, keys.values()))}: {found['note']}.")
    heads = texts(*WHERE, *(["method"] if by_method else []), *slots, "", *(LABELS[column] for column in layout))
    remarks = (*said, *notes.no_printed(groups), *notes.another(groups))
    return without_empty(Table(name=name, title=title, columns=heads, rows=tuple(rows), notes=remarks))


SHARES = (
    "Intervals: 95 %, over seeds (Student t, which may pass 0 or all). Shares are computed from the counts, for the "
    "paper's rows too."
)


def critical_neurons(groups: Sequence[Group]) -> Table:
    """Table 5: how many MLP neurons train, for each kind of mask; the paper's count is that of the mask `dual`."""
    rows: list[Row] = []
    shown = [g for same in by_place(groups) for g in by_mask(same).values()]
    slots = [slot for slot in slots_shown(shown) if slot == "attribution"]
    for g in shown:
        found = [c for run in g.runs if (c := neurons(run))]
        if not found:
            continue
        total = found[0][1]
        ours = of_seeds([selected for selected, _ in found])
        labels = (g.place, g.model, g.mask, *map(g.option, slots), show(_setting(g, "mask.t")))
        rows.append(Row((*labels, "ours", total, ours, ours.mean / total, len(found))))
        own = not {"mask", "attribution"} & set(g.foreign)  # what comes after the mask does not change it
        if own and (row := paper.find(paper.table5(), data=g.data, model=g.model)):
            rows += _printed_neurons(labels, row, total, ours)
    heads = (
        *texts(*WHERE, "mask", *slots, "t", ""),
        counted("MLP neurons"),
        counted("critical"),
        Column(label="share", style="percent"),
        counted("seeds"),
    )
    remarks = (SHARES, *notes.no_printed(groups))
    return Table(name="table5", title="Table 5: critical MLP neurons", columns=heads, rows=tuple(rows), notes=remarks)


def _printed_neurons(labels: tuple[Cell, ...], row: paper.Row, total: int, ours: Estimate) -> list[Row]:
    n, of = int(row["critical_mlp_neurons"]), int(row["total_mlp_neurons"])
    gaps = (total - of, ours.mean - n, ours.mean / total - n / of)
    return [
        Row((*labels, "paper", of, n, n / of, None), "paper"),
        Row((*labels, "difference", *gaps, None), "difference"),
    ]


def _setting(g: Group, key: str) -> Cell:
    """A setting as a number where it is one; the number of forget rows where the table asks for no key."""
    if not key:
        return None if g.settings.get("data.evaluation_rows") else g.rows("forget")
    value = g.settings.get(key)
    return value if isinstance(value, int | float | str) else None


def _plain(value: float | None) -> Cell:
    """A difference or a printed setting without the noise of floats: 2.0 → 2, 1.0000000000000005e-06 → 1e-06."""
    return None if value is None else float(f"{value:.6g}")
