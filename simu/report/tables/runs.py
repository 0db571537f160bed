"""Tables of every run: one line a config, and one line a metric of each."""

from __future__ import annotations

from collections.abc import Sequence

from simu.metrics.collapse import MAIN_SPLITS, signs
from simu.report.columns import benchmarks, columns, counts, label, main_keys
from simu.report.direction import arrow, better
from simu.report.groups import Group
from simu.report.nearest import method_rank
from simu.report.table import Column, Row, Table, counted, file_name, texts, without_empty
from simu.report.tables import notes
from simu.report.tables.labels import label_cells, label_columns, slots_shown


def run_tables(groups: Sequence[Group], before: Sequence[Group]) -> list[Table]:
    """Every config that ran, method × mask, one table a benchmark."""
    evaluated = [g for g in [*before, *groups] if g.evaluated]
    made = []
    for bench in benchmarks(evaluated):
        chosen = sorted((g for g in evaluated if g.benchmark == bench.name), key=_order)
        listed, slots = main_keys(bench, chosen), slots_shown(chosen)
        told = signs(dict.fromkeys(key for g in chosen for key in g.signs() if key not in listed))
        keys, main = [*listed, *told], bench.main | {key for key in told if key.split("/")[0] == MAIN_SPLITS[0]}
        rows = tuple(
            Row(
                (
                    *label_cells(g, slots),
                    g.apart(),
                    g.state(),
                    g.share_selected(),
                    *map(g.estimate, keys),
                    counts(g),
                    g.seeds,
                )
            )
            for g in chosen
        )
        heads = (
            *label_columns(slots, "settings", "warning"),
            Column(label="neurons", style="percent", main=True),
            *columns(keys, main),
            *texts("n rows"),
            counted("seeds", main=True),
        )
        remarks = (notes.INTERVALS, *notes.variants(chosen), *notes.warned(chosen), *notes.fewer(chosen, keys))
        remarks += tuple(notes.commits(chosen))
        title = f"Every run, {bench.title}: method × mask"
        table = Table(name=runs_of(bench.name), title=title, columns=heads, rows=rows, notes=remarks)
        made.append(without_empty(table))
    return made


def runs_of(benchmark: str) -> str:
    """Name of the table of every run of a benchmark."""
    return f"runs_{file_name(benchmark)}"


def all_metrics(groups: Sequence[Group]) -> Table:
    """Every metric of every config, one line each: what the other tables leave out. A metric that the table of metrics
    does not know has no label and no direction."""
    slots = slots_shown(groups)
    rows = [
        Row((*label_cells(g, slots), g.apart(), key, *_named(key), e, e.n, e.seeds))
        for g in groups
        for key in g.metrics()
        if (e := g.estimate(key))
    ]
    heads = (
        *label_columns(slots, "settings", "metric", "label", "better"),
        Column(label="value", style="score"),
        counted("n rows"),
        counted("seeds"),
    )
    return Table(name="metrics", title="Every metric", columns=heads, rows=tuple(rows), notes=(notes.INTERVALS,))


def _named(key: str) -> tuple[str, str]:
    """Label and arrow."""
    said = label(key)
    return ("" if said == key else said), arrow(better(key))


def _order(g: Group) -> tuple[object, ...]:
    numbers = [v if isinstance(v, int | float) else 0.0 for v in map(g.settings.get, g.varying)]
    return g.place, g.model, method_rank(g.method), g.mask, numbers
