"""Tables: the paper's layout, the printed figure and the difference where it has one, and five ways to write them."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from simu.report import render
from simu.report.collect import collect
from simu.report.figures import draw
from simu.report.groups import Estimate, group, originals
from simu.report.samples import sample_tables
from simu.report.tables import Column, Row, Table, all_metrics, nearest_to_preset, paper_tables, run_tables


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
    assert gap["Aggregate"] == pytest.approx(ours["Aggregate"].mean - 0.8438)
    assert printed["Forget EM (string)"] is None
    assert gap["Forget EM (string)"] is None


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


def test_run_tables_have_a_line_for_every_config_and_tell_them_apart(made):
    tables = {table.name: table for table in run_tables(*made)}
    rows = [row for row in tables["runs_qa"].rows if row.cells[0] == "mini"]
    assert len(rows) == 1 + 3 + 4 + 4 + 3 + 5  # original, table1's methods, t, m, λ, masks
    assert len({row.cells[:5] for row in rows}) == len(rows)
    assert "m=5, t=0.9, λ=2" in {row.cells[4] for row in rows}


def test_all_metrics_lists_each_metric_with_its_n(made):
    groups = [g for g in made[0] if g.data == "mini" and g.method == "fo_graddiff"]
    table = all_metrics(groups)
    assert {row.cells[5]: row.cells[7] for row in table.rows}["world_facts/contains_answer"] == 117


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
    name="small", title="A & B: 100 %", notes=("a < b",),
    columns=(Column(label="name"), Column(label="EM", span="Forget", better="lower", style="score"),
             Column(label="share", style="percent")),
    rows=(Row(("x|y_z", Estimate(mean=0.25, low=0.2, high=0.3, n=40, over="rows"), 0.125)),
          Row(("x|y_z", 0.2, None), "paper"), Row(("x|y_z", 0.05, None), "difference")),
)  # fmt: skip


def test_markdown():
    lines = render.markdown(TABLE).splitlines()
    assert "| name | Forget EM ↓ | share |" in lines
    assert "| x\\|y_z | 0.2500 [0.200, 0.300] | 12.5 % |" in lines
    assert "| x\\|y_z | +0.0500 | – |" in lines


def test_csv_has_full_precision_and_a_column_for_each_end_and_n():
    rows = list(csv.DictReader(io.StringIO(render.comma_separated(TABLE))))
    assert rows[0] == {"name": "x|y_z", "Forget EM": "0.25", "Forget EM_low": "0.2", "Forget EM_high": "0.3",
                       "Forget EM_n": "40", "share": "0.125"}  # fmt: skip
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
def test_terminal_tables_fit_and_hold_the_figures(by_name, width):
    for table in by_name.values():
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(*render.terminal(table))
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(*render.terminal(by_name["table1"]))
    assert "paper 0.8438" in console.export_text()
