"""The report is a view over the metric table: it knows no metric by name, and shows what is declared or measured."""

from __future__ import annotations

import ast
import json
import re
import sys
import types
from pathlib import Path

import pytest

import simu.dashboard
import simu.metrics
import simu.report
from simu.metrics import metric
from simu.metrics.benchmarks import BENCHMARKS
from simu.metrics.metric import SPLIT_ROLES, Metric, Near, entries
from simu.report import columns, direction, render
from simu.report.__main__ import main
from simu.report.collect import collect
from simu.report.groups import group, originals
from simu.report.summary import print_summary
from simu.report.tables import all_metrics, paper_tables, run_tables

ROOT = Path(simu.report.__file__).parent
FILES = sorted(file for file in ROOT.rglob("*.py"))
ELSEWHERE = {"finished"}
"""Words that are a metric's key and a field of provenance.json as well."""


def add_metrics(folder: Path, **more: float) -> None:
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.fixture
def newcomer(monkeypatch, tmp_path):
    """A module of one's own among simu.metrics, with two entries: nothing else is changed."""
    (tmp_path / "newcomer.py").write_text(
        "from simu.metrics.metric import Metric, Near\n"
        "METRICS = (\n"
        "    Metric(key='rhyme', label='Rhymes', better={'forget': 'lower', 'retain': 'higher'}, bounds=(0, 1),\n"
        "           aggregate='mean', source='a test', headline=True),\n"
        "    Metric(key='balance', label='Balance', better={'whole': Near(value=0.25)}, bounds=(0, 1),\n"
        "           aggregate='whole', source='a test', headline=True),\n"
        ")\n"
    )
    monkeypatch.setattr(simu.metrics, "__path__", [*simu.metrics.__path__, str(tmp_path)])
    metric.table.cache_clear()
    metric.entries.cache_clear()
    yield
    sys.modules.pop("simu.metrics.newcomer", None)
    monkeypatch.undo()
    metric.table.cache_clear()
    metric.entries.cache_clear()


def test_a_new_metric_is_in_every_table_with_its_arrow(newcomer, tmp_path, make_run, capsys):
    run = make_run(tmp_path / "run")
    add_metrics(run, **{"forget/rhyme": 0.125, "retain/rhyme": 0.5, "balance": 0.375, "original/balance": 0.75})
    runs = collect([run])[0]
    groups, before = group(runs), originals(runs)
    tables = {t.name: t for t in (*paper_tables(groups, before), *run_tables(groups, before))}
    for name in ("table1", "runs_qa"):
        heads = render.markdown(tables[name]).splitlines()[2]
        for head in ("Forget Rhymes ↓", "Retain Rhymes ↑", "Balance →0.25"):
            assert f"| {head} |" in heads
    every = render.markdown(all_metrics(groups))
    assert "| forget/rhyme | forget Rhymes | ↓ | 0.1250 |" in every
    print_summary(runs[0].metrics, "simu", "qa")
    printed = capsys.readouterr().out
    assert re.search(r"Balance +→0\.25 +0\.750 +0\.375", printed)
    assert re.search(r"forget Rhymes +↓ +– +0\.125", printed)


def test_a_key_that_no_entry_explains_is_shown_without_a_label(tmp_path, make_run):
    run = make_run(tmp_path / "run")
    add_metrics(run, **{"forget/of_old": 0.125, "of_old": 7.0})
    table = all_metrics(group(collect([run])[0]))
    heads = [c.label for c in table.columns]
    rows = {row.cells[heads.index("metric")]: dict(zip(heads, row.cells, strict=True)) for row in table.rows}
    for key, value in (("forget/of_old", 0.125), ("of_old", 7.0)):
        assert (rows[key]["label"], rows[key]["better"], rows[key]["value"].mean) == ("", "", value)


def test_a_benchmark_that_nobody_declared_is_shown_whole(tmp_path, make_run, edit):
    run = make_run(tmp_path / "run")
    edit(run, benchmark="of_mine")
    add_metrics(run, of_mine=0.25)
    assert main([str(run), "--quiet", "--out", str(tmp_path / "out"), "--no-figures"]) == 0
    heads = (tmp_path / "out" / "tables" / "runs_of_mine.csv").read_text().splitlines()[0].split(",")
    assert "of_mine" in heads
    assert "Forget ROUGE-L" in heads


def test_the_run_names_its_benchmark_whatever_its_keys_are(tmp_path, make_run, edit):
    run = make_run(tmp_path / "run", data="lume")
    edit(run, benchmark="qa")
    (table,) = run_tables(group(collect([run])[0]), [])
    assert (table.name, BENCHMARKS["qa"].title in table.title) == ("runs_qa", True)


@pytest.mark.parametrize(
    ("better", "arrow", "words", "order"),
    [
        ("lower", "↓", "lower is better", [0.1, 0.4, 0.9]),
        ("higher", "↑", "higher is better", [0.9, 0.4, 0.1]),
        (Near(value=0.5), "→0.5", "nearer to 0.5 is better", [0.4, 0.9, 0.1]),
        (None, "", "", [0.9, 0.4, 0.1]),
    ],
)
def test_directions(better, arrow, words, order):
    assert (direction.arrow(better), direction.words(better)) == (arrow, words)
    values = [0.1, 0.4, 0.9]
    if isinstance(better, Near):
        values, order = [0.1, 0.4, 0.95], [0.4, 0.1, 0.95]
    assert sorted(values, key=lambda v: -direction.merit(better, v)) == order


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_column_of_a_benchmark_is_headed_by_the_table(name):
    bench = BENCHMARKS[name]
    keys = [*bench.columns, *bench.more, *bench.by_group, *bench.headline]
    heads = [(c.span, c.label) for c in columns.columns(dict.fromkeys(keys))]
    assert len(set(heads)) == len(heads)
    assert not {label for _, label in heads} & set(keys)


def strings(file: Path) -> list[str]:
    """Texts in a file's code; what stands alone as an expression is documentation."""
    tree = ast.parse(file.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in said)
    return [node.value for node in nodes if isinstance(node.value, str)]


def named(text: str, keys: set[str]) -> bool:
    """Whether a text is a metric's key, or holds one behind a split ('forget/KEY')."""
    parts = set(re.findall(rf"(?:{'|'.join(SPLIT_ROLES)})/(?:[\w]+/)*([\w]+)", text))
    return text in keys - ELSEWHERE or bool(parts & keys) or any(key in text for key in keys if "/" in key)


@pytest.mark.parametrize("file", [*FILES, Path(simu.dashboard.__file__)], ids=lambda file: file.name)
def test_no_metric_is_named_in_the_code_of_the_report(file):
    assert [text for text in strings(file) if named(text, set(entries()))] == []


def test_the_search_for_names_finds_them():
    keys = {"exact_match", "mia/min_k", "finished"}
    assert all(named(text, keys) for text in ("exact_match", "forget/exact_match<=0.3", "see mia/min_k", "mia/min_k"))
    assert not any(named(text, keys) for text in ("finished", "an exact_match", "forget", "mia"))


def test_fixture_modules_are_gone_again():
    assert "rhyme" not in entries()
    assert isinstance(metric, types.ModuleType)
    assert all(isinstance(entry, Metric) for entry in entries().values())
