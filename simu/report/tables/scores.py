"""Tables 1 and 2 with the printed figure and the difference under ours, and metrics beyond the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simu.metrics.benchmarks import Benchmark
from simu.report import paper
from simu.report.columns import benchmarks, columns, counts, main_keys
from simu.report.groups import Group
from simu.report.nearest import METHODS, method_rank, nearest_to_preset
from simu.report.table import Row, Table, counted, file_name, texts, without_empty
from simu.report.tables import notes
from simu.report.tables.labels import label_cells, label_columns, slots_shown


def score_tables(groups: Sequence[Group], before: Sequence[Group]) -> Iterator[Table]:
    """One table a benchmark over the groups that ran each method with the fewest changes to its preset; one by group
    where the benchmark has such keys; one of the keys beyond the paper."""
    shown = of_paper([*before, *nearest_to_preset([g for g in groups if g.evaluated])])
    for bench in benchmarks(shown):
        asked = [g for g in shown if g.benchmark == bench.name]
        number = bench.number
        name, title = (f"table{number}", f"Table {number}") if number else (f"scores_{file_name(bench.name)}", "Scores")
        yield scores(name, f"{title}: {bench.title}", main_keys(bench, asked), asked, bench, paper.notes(number))
        if bench.by_group:
            yield scores(f"{name}_tasks", f"{title}, continued: {bench.title} by task", bench.by_group, asked, bench)
    more = list(dict.fromkeys(key for bench in benchmarks(shown) for key in bench.more))
    yield scores("beyond", "Beyond the paper: likelihood, utility and over-forgetting", more, shown)


def of_paper(groups: Sequence[Group]) -> list[Group]:
    """Those of the paper's methods, by place and model, in its order."""
    return sorted((g for g in groups if g.method in METHODS), key=lambda g: (g.place, g.model, method_rank(g.method)))


def scores(
    name: str,
    title: str,
    keys: Sequence[str],
    groups: Sequence[Group],
    bench: Benchmark | None = None,
    said: Sequence[str] = (),
) -> Table:
    """Metrics of the groups, and under each the printed row and the difference where the paper has it."""
    slots = slots_shown(groups)
    rows: list[Row] = []
    odd: dict[str, list[str]] = {}
    for g in groups:
        labels = label_cells(g, slots)
        ours = [g.estimate(key) for key in keys]
        rows.append(Row((*labels, "ours", *ours, counts(g), g.seeds)))
        found = printed_row(g, paper.printed(bench.number)) if bench else None
        if bench is None or found is None:
            continue
        theirs = [paper.number(found.get(bench.printed.get(key, ""))) for key in keys]
        gaps = [
            o.mean - p if o and p is not None and comparable(g, bench, key) else None
            for key, o, p in zip(keys, ours, theirs, strict=True)
        ]
        rows.append(Row((*labels, "paper", *theirs, None, None), "paper"))
        rows.append(Row((*labels, "difference", *gaps, None, None), "difference"))
        if found["note"]:
            odd.setdefault(str(found["note"]), []).append(f"{g.model}, {g.method}")
    heads = (*label_columns(slots, ""), *columns(keys, bench.main if bench else frozenset()), *texts("n rows"))
    printed = {bench.printed.get(key) for key in keys} if bench else set()  # a note starts with its printed column
    remarks = (
        notes.INTERVALS,
        *notes.variants(groups),
        *notes.warned(groups),
        *notes.chosen(groups),
        *notes.fewer(groups, keys),
        *notes.commits(groups),
        *(said if any(row.kind == "paper" for row in rows) else ()),
        *(f"Paper, {'; '.join(where)}: {note}." for note, where in odd.items() if note.split(":")[0] in printed),
        *notes.no_printed(groups),
        *notes.another(groups),
    )
    columns_ = (*heads, counted("seeds"))
    return without_empty(Table(name=name, title=title, columns=columns_, rows=tuple(rows), notes=remarks))


def printed_row(g: Group, printed: list[paper.Row]) -> paper.Row | None:
    """The paper's row of a group that is what its method's name says: with another loss, optimizer, mask, selection or
    attribution it is not what the paper printed."""
    found = paper.find(printed, data=g.data, model=g.model, method=g.method)
    return None if g.foreign else found


def comparable(g: Group, bench: Benchmark, key: str) -> bool:
    """Whether ours is made as the printed figure is: one of other parts is no difference from it."""
    wanted = bench.printed_with.get(key, {})
    ours = {name: g.settings.get(name) for name in wanted}
    return ours == wanted or not any(value is not None for value in ours.values())
