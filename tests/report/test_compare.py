"""Paired comparison and the winner of a search, against values made by hand."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from simu.report import best, compare, render
from simu.report.__main__ import main
from simu.report.collect import collect
from simu.report.groups import group
from simu.types import UserError


def rescore(folder, changes) -> None:
    """Let `changes(row)` edit each row of generations.jsonl; None drops it."""
    path = folder / "generations.jsonl"
    rows = [changes(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def test_paired_difference_of_shifted_scores_is_the_shift(tmp_path, make_run):
    a, b = (make_run(tmp_path / name, method=method) for name, method in (("a", "fo_graddiff"), ("b", "simu")))

    def shifted(row):
        if row["id"] == "retain/0":
            return None
        row["scores"] = {"rouge_l_recall": int(row["id"].split("/")[1]) / 100 + 0.25, "n_tokens": 9, "mia_min_k": 1}
        return row

    def plain(row):
        row["scores"] = {"rouge_l_recall": int(row["id"].split("/")[1]) / 100, "n_tokens": 3, "mia_min_k": 2}
        return row

    rescore(a, plain)
    rescore(b, shifted)
    table = compare.paired_table(compare.one_run(a), compare.one_run(b))
    forget, retain = table.rows
    assert forget.cells[:2] == ("forget", "rouge_l_recall")
    assert forget.cells[2:4] == pytest.approx((0.195, 0.445))  # mean of 0 … 0.39, and 0.25 more
    d = forget.cells[4]
    assert (d.mean, d.low, d.high, d.n) == (pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.25), 40)
    assert float(forget.cells[5]) < 0.001
    assert retain.cells[6] == 39  # the row that only A has does not count


def test_paired_interval_is_narrower_than_the_rows_spread_and_p_is_near_one_without_a_difference(tmp_path, make_run):
    a, b = (make_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    rng = np.random.default_rng(5)
    signs = rng.permutation([1, -1] * 20)

    def noisy(sign):
        def edit(row):
            i = int(row["id"].split("/")[1])
            row["scores"] = {"exact_match": i / 40 + sign * 0.01 * signs[i]}
            return row

        return edit

    rescore(a, noisy(0))
    rescore(b, noisy(1))
    d, p = compare.paired_table(compare.one_run(a), compare.one_run(b)).rows[0].cells[4:6]
    assert d.mean == pytest.approx(0)
    assert -0.005 < d.low < 0 < d.high < 0.005
    assert float(p) > 0.9


def test_configs_are_compared_key_by_key(tmp_path, make_run):
    a, b = make_run(tmp_path / "a", t=0.1), make_run(tmp_path / "b", t=0.5, seed=3)
    table = compare.config_table(compare.one_run(a), compare.one_run(b))
    assert {row.cells for row in table.rows} == {("mask.t", "0.1", "0.5"), ("seed", "0", "3")}


def test_comparing_needs_two_runs_on_the_same_rows(tmp_path, make_run):
    a, b = make_run(tmp_path / "x" / "a"), make_run(tmp_path / "x" / "b", data="lume")
    with pytest.raises(UserError, match="no scored row in common"):
        compare.paired_table(compare.one_run(a), compare.one_run(b))
    with pytest.raises(UserError, match="2 runs"):
        compare.one_run(tmp_path / "x")
    with pytest.raises(UserError, match="no such folder"):
        compare.one_run(tmp_path / "y")


def scored(make_run, folder, aggregate, forget, **kwargs):
    run = make_run(folder, **kwargs)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics |= {"aggregate": aggregate, "forget/rouge_l_recall": forget}
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def search(tmp_path, make_run):
    """Highest aggregate: t=0.1, but it forgets too little; t=0.5 wins by its mean over two seeds."""
    scored(make_run, tmp_path / "0", 0.95, 0.60, t=0.1)
    scored(make_run, tmp_path / "1", 0.80, 0.20, t=0.3)
    scored(make_run, tmp_path / "2", 0.90, 0.25, t=0.5, seed=0)
    scored(make_run, tmp_path / "3", 0.76, 0.35, t=0.5, seed=1)
    scored(make_run, tmp_path / "4", 0.70, 0.10, method="so_graddiff")
    return tmp_path


def test_the_winner_is_the_best_mean_that_holds_the_constraint(search):
    so, simu = sorted(best.candidates(group(collect([search])[0])), key=len)
    rule = [best.parse("forget/rouge_l_recall<=0.3")]
    won = best.winner(simu, "aggregate", rule)
    assert won is not None
    assert (won.settings["mask.t"], won.seeds) == (0.5, 2)
    assert best.command(won, simu) == "python -m simu.run model=tiny data=mini method=simu mask.t=0.5"
    both = best.winner(simu, "aggregate", [best.parse("forget/rouge_l_recall < 0.3"), best.parse("aggregate<0.82")])
    assert both is not None
    assert both.settings["mask.t"] == 0.3
    assert best.winner(simu, "aggregate", [best.parse("forget/rouge_l_recall<=0.01")]) is None
    assert best.command(so[0], so) == "python -m simu.run model=tiny data=mini method=so_graddiff"


@pytest.mark.parametrize(("fair", "expected"), [((0.4, 0.6), 0.5), ((0.4, None), 0.3)], ids=["all", "an older run"])
def test_best_chooses_by_the_fair_aggregate_where_all_configs_have_it(tmp_path, make_run, capsys, fair, expected):
    """t = 0.3 has the better aggregate, t = 0.5 the better fair one."""
    for i, (t, aggregate) in enumerate(((0.3, 0.9), (0.5, 0.8))):
        folder = tmp_path / str(i)
        scored(make_run, folder, aggregate, 0.2, t=t)
        metrics = json.loads((folder / "metrics.json").read_text())
        more = {} if fair[i] is None else {"aggregate_fair": fair[i]}
        (folder / "metrics.json").write_text(json.dumps(metrics | more))
    assert main(["best", str(tmp_path)]) == 0
    assert f"mask.t={expected}" in capsys.readouterr().out.splitlines()[-1]


def test_best_prints_the_command_of_each_methods_winner(search, capsys):
    assert main(["best", str(search)]) == 0
    out = capsys.readouterr().out
    assert out.endswith(
        "python -m simu.run model=tiny data=mini method=simu mask.t=0.5\n"
        "python -m simu.run model=tiny data=mini method=so_graddiff\n"
    )
    assert "breaks the constraint" in out


@pytest.mark.parametrize("width", [80, 120])
def test_comparisons_and_rankings_keep_every_figure_on_a_narrow_terminal(search, width):
    a, b = (compare.one_run(search / name) for name in "04")
    (simu,) = (c for c in best.candidates(group(collect([search])[0])) if len(c) > 1)
    ranking = best.table(simu, "aggregate", [best.parse("forget/rouge_l_recall<=0.3")], simu[0])
    for table in (compare.paired_table(a, b), compare.whole_table(a, b), ranking):
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(*render.terminal(table, width))
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width
        for row in table.rows:
            for cell, column in zip(row.cells, table.columns, strict=True):
                assert column.style != "score" or render.figure(cell, column)[0] in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["best", "RUNS", "--where", "forget/rouge"], "METRIC<=NUMBER"),
        (["best", "RUNS", "--where", "forget/rouge_l_recall<=x"], "METRIC<=NUMBER"),
        (["best", "RUNS", "--metric", "agregate"], "agregate: no run has this metric"),
        (["best", "RUNS", "--where", "forget/rouge_l_recall<0.01"], "no config holds forget/rouge_l_recall<0.01"),
        (["compare", "RUNS", "RUNS"], "5 runs"),
        (["nowhere"], "no finished run under nowhere"),
        (["RUNS", "--out", "/proc/nothing", "--no-figures", "--quiet"], "allowed is a folder that can be written"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(search, capsys, words, said):
    assert main([str(search) if word == "RUNS" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_search_among_options_is_won_by_name(tmp_path, make_run):
    scored(make_run, tmp_path / "0", 0.80, 0.20)
    scored(make_run, tmp_path / "1", 0.90, 0.20, objective="npo")
    (simu,) = best.candidates(group(collect([tmp_path])[0]))
    won = best.winner(simu, "aggregate", [])
    assert won is not None
    assert best.command(won, simu) == "python -m simu.run model=tiny data=mini method=simu objective=npo"
    assert "objective" in [c.label for c in best.table(simu, "aggregate", [], won).columns]


@pytest.mark.parametrize(
    ("metric", "wins", "said"),
    [
        ("forget/rouge_l_recall", 0.1, "Lowest"),
        ("mia/min_k", 0.48, "Nearest to 0.5"),
        ("aggregate", 0.7, "Highest"),
        ("mine", 3.0, "Highest"),
    ],
)
def test_the_best_is_chosen_in_the_metrics_own_direction(tmp_path, make_run, metric, wins, said):
    values = {"forget/rouge_l_recall": (0.1, 0.5), "mia/min_k": (0.1, 0.48), "aggregate": (0.2, 0.7), "mine": (1, 3)}
    for i, t in enumerate((0.1, 0.5)):
        folder = make_run(tmp_path / str(i), t=t)
        path = folder / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: pair[i] for key, pair in values.items()}))
    (simu,) = best.candidates(group(collect([tmp_path])[0]))
    won = best.winner(simu, metric, [])
    assert won is not None
    assert won.estimate(metric).mean == wins
    table = best.table(simu, metric, [], won)
    assert table.notes == (f"{said} {metric}, means over seeds.",)
    assert table.rows[0].cells[-1] == "winner"


def test_an_unknown_score_that_the_runs_average_is_compared_without_a_direction(tmp_path, make_run):
    runs = [make_run(tmp_path / name, method=method) for name, method in (("a", "fo_graddiff"), ("b", "simu"))]
    for i, folder in enumerate(runs):
        path = folder / "metrics.json"
        extra = {"forget/mine": 0.5, "whole_mine": 2.0 + i, "whole_mine/n": 3}
        path.write_text(json.dumps(json.loads(path.read_text()) | extra))
        rescore(folder, lambda row: row | {"scores": {"mine": 0.5, "hidden": 1.0, "rouge_l_recall": 0.1}})
    a, b = map(compare.one_run, runs)
    rows = {row.cells[:2]: row.cells[-1] for row in compare.paired_table(a, b).rows}
    assert rows == {("forget", "mine"): "", ("forget", "rouge_l_recall"): "↓", ("retain", "rouge_l_recall"): "↑"}
    whole = {row.cells[0]: row.cells[1:] for row in compare.whole_table(a, b).rows}
    assert whole["whole_mine"] == (2.0, 3.0, 1.0, "")
    assert whole["mia/min_k"][-1] == "→0.5"
    assert not [name for name in whole if name.endswith("/n") or name.startswith("original/")]


@pytest.mark.parametrize("words", [[], ["compare"], ["best"]])
def test_help_loads_neither_torch_nor_numpy(words):
    code = (
        "import sys; from simu.report.__main__ import main\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'scipy', 'rich', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "usage: python -m simu.report" in done.stdout


def test_a_report_is_made_without_torch(search, tmp_path):
    code = "import sys; from simu.report.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    words = [str(search), "--quiet", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_help_names_all_three_uses():
    done = subprocess.run([sys.executable, "-m", "simu.report", "--help"], capture_output=True, text=True, check=True)
    for words in ("PATHS", "compare A B", "best PATHS", "--out"):
        assert words in done.stdout
