"""Rows, legends and commands name what ran: objective, optimizer, mask, selection and attribution, by their options."""

from __future__ import annotations

import json
import shlex

import pytest
from hydra import compose, initialize_config_dir

from simu.config import conf_dir
from simu.report import best
from simu.report.__main__ import main
from simu.report.collect import collect
from simu.report.figures import draw
from simu.report.groups import group, originals
from simu.report.nearest import nearest_to_preset
from simu.report.tables import all_metrics, paper_tables, run_tables

NPO = {
    "objective._target_": "Objective",
    "objective.forget._target_": "NPO",
    "objective.retain._target_": "CE",
}
PLAIN = NPO | {"objective.forget._target_": "Ascent"}


def column(table, label: str) -> list[object]:
    at = [c.label for c in table.columns].index(label)
    return [row.cells[at] for row in table.rows if row.cells[2] not in ("original",)]


def tables_of(root):
    runs = collect([root])[0]
    groups, before = group(runs), originals(runs)
    return groups, {
        t.name: t for t in (*paper_tables(groups, before), *run_tables(groups, before), all_metrics(groups))
    }


def test_an_npo_run_is_not_set_beside_the_papers_simu(tmp_path, make_run):
    """Table 1 of OLMo on TOFU, where 'simu' ran with NPO alone: the row says npo, and the printed figures stay away."""
    make_run(tmp_path / "so", model="olmo_1b", data="tofu", method="so_graddiff")
    make_run(tmp_path / "npo", model="olmo_1b", data="tofu", objective="npo")
    _, tables = tables_of(tmp_path)
    for name in ("table1", "table4"):
        rows = {(row.cells[2], row.kind) for row in tables[name].rows}
        assert ("so_graddiff", "paper") in rows
        assert ("simu", "ours") in rows
        assert not {("simu", "paper"), ("simu", "difference")} & rows
        assert "npo" in column(tables[name], "objective")
        assert any("simu with objective=npo, olmo_1b on tofu" in note for note in tables[name].notes)
    assert "paper" not in {row.kind for row in tables["table3"].rows}
    assert "paper" in {row.kind for row in tables["table5"].rows}  # the neurons are those of dual, whatever follows


@pytest.mark.parametrize(
    ("slot", "option"), [("optimizer", "adamw"), ("selection", "lora"), ("mask", "random"), ("attribution", "gradient")]
)
def test_nor_is_a_run_with_another_option_in_any_slot(tmp_path, make_run, edit, slot, option):
    edit(make_run(tmp_path / "run", model="olmo_1b", data="tofu"), options={slot: option})
    _, tables = tables_of(tmp_path)
    assert {row.kind for row in tables["table1"].rows} == {"ours", "paper", "difference"}  # of the original
    assert {row.cells[2] for row in tables["table1"].rows if row.kind == "paper"} == {"original"}
    assert option in column(tables["table1"], slot)
    printed = {row.kind for row in tables["table5"].rows} if "table5" in tables else set()
    assert ("paper" in printed) == (slot in ("optimizer", "selection"))


def test_a_class_typed_instead_of_an_option_is_called_by_the_options_name(tmp_path, make_run, edit):
    edit(make_run(tmp_path / "typed", seed=1), settings=NPO, options={"objective/retain": "ce"})
    edit(make_run(tmp_path / "chosen", objective="npo"), settings=NPO, options={"objective/retain": "ce"})
    edit(make_run(tmp_path / "plain"), settings=PLAIN, options={"objective/retain": "ce"})
    groups, tables = tables_of(tmp_path)
    assert sorted(g.kind for g in groups) == [
        "simu · dual · objective=graddiff × ce",
        "simu · dual · objective=npo × ce",
    ]
    (npo,) = (g for g in groups if "npo" in g.kind)
    assert npo.seeds == 2  # one config, however it was typed
    assert not [key for g in groups for key in g.settings if "_target_" in key]
    for table in tables.values():
        assert not [cell for row in table.rows for cell in row.cells if isinstance(cell, str) and "_target_" in cell]
        assert not [note for note in table.notes if "_target_" in note]
    (nearest,) = nearest_to_preset(groups)
    assert nearest.option("objective") == "graddiff × ce"


def test_every_table_and_legend_carries_what_differs(tmp_path, make_run, edit):
    """graddiff, NPO, NPO with KL, AdamW, LoRA, gradient attribution, random mask: eight runs, eight names."""
    changes = {
        "graddiff × ce": {},
        "npo × ce": {"objective": "npo"},
        "npo × kl": {"objective": "npo", "objective/retain": "kl"},
        "adamw": {"optimizer": "adamw"},
        "lora": {"selection": "lora"},
        "gradient": {"attribution": "gradient"},
        "random": {"mask": "random"},
    }
    for i, options in enumerate(changes.values()):
        edit(make_run(tmp_path / str(i), forget=0.1 + i / 50), options={"objective/retain": "ce"} | options)
    groups, tables = tables_of(tmp_path)
    assert len({g.kind for g in groups}) == len(changes)
    runs = tables["runs_qa"]
    heads = [c.label for c in runs.columns]
    told = [heads.index(slot) for slot in ("mask", "objective", "optimizer", "selection", "attribution")]
    assert len({tuple(row.cells[i] for i in told) for row in runs.rows}) == len(changes) + 1  # and the original
    assert "settings" not in heads  # nothing but options differs
    for said in changes:
        assert any(said in g.kind for g in groups)
    (trade,) = (p for p in draw(groups, []) if p.name.startswith("figure4_tradeoff"))
    legend = [t.get_text().replace("\n", " · ") for t in trade.figure.axes[0].get_legend().get_texts()]
    assert len(set(legend)) == len(changes)
    for said in changes:
        assert [text for text in legend if said in text], legend


def test_a_rate_of_another_optimizer_is_no_setting_of_this_one(tmp_path, make_run, edit):
    edit(make_run(tmp_path / "sophia"), settings={"optimizer.gamma": 200.0})
    edit(make_run(tmp_path / "adamw", lr=3e-4), options={"optimizer": "adamw"}, settings={"optimizer.eps": 1e-8})
    assert {g.differs() for g in group(collect([tmp_path])[0])} == {"optimizer=sophia", "optimizer=adamw"}
    edit(make_run(tmp_path / "again", lr=1e-3), settings={"optimizer.gamma": 200.0})
    said = {g.differs() for g in group(collect([tmp_path])[0])}
    assert said == {"optimizer=adamw", "optimizer=sophia, lr=1e-05", "optimizer=sophia, lr=0.001"}


def test_an_option_is_further_from_the_preset_than_any_number_of_settings(tmp_path, make_run):
    make_run(tmp_path / "far", t=0.9, m=9, lr=3e-3, weight=7.0)
    make_run(tmp_path / "npo", objective="npo")
    (nearest,) = nearest_to_preset(group(collect([tmp_path])[0]))
    assert nearest.settings["objective"] == "graddiff"


HARD = ["a b", "it's", 'say "x"', "a,b", "x;rm -rf y", "$(touch z)", "a=b", "[0.9, 0.95]", "back\\slash", "{a}"]


@pytest.mark.parametrize("value", HARD)
def test_the_command_of_a_winner_can_be_pasted(tmp_path, make_run, edit, value):
    """Through a shell's words and Hydra's grammar the value comes back as it was."""
    for i, text in enumerate((value, "plain")):
        edit(make_run(tmp_path / str(i), forget=0.1 + i / 10), settings={"training.schedule": text})
    groups = group(collect([tmp_path])[0])
    won = best.winner(groups, "aggregate", [])
    words = shlex.split(best.command(won, groups))
    assert words[:3] == ["python", "-m", "simu.run"]
    typed = [w for w in words[3:] if w.startswith("training.schedule")]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=typed)
    found = config.training.schedule
    assert found == value or (value.startswith("[") and list(found) == json.loads(value))


def test_best_and_the_runs_table_name_a_collapse(tmp_path, make_run, capsys):
    """The model that says one sign eighty times wins by the aggregate: it is named, and the best that has not."""
    for i, t in enumerate((0.3, 0.6)):
        folder = make_run(tmp_path / str(i), t=t, forget=0.2 - t / 4)
        path = folder / "metrics.json"
        fallen = {"forget/repetition_rate": 0.985, "forget/finished": 0.0} if i else {}
        spoken = {"forget/repetition_rate": 0.01, "forget/finished": 1.0, "forget/empty": 0.0}
        before = {f"original/{key}": value for key, value in spoken.items()}
        more = spoken | before | fallen | {"aggregate": 0.8 + t / 5}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    record = json.loads((tmp_path / "1" / "provenance.json").read_text())
    (tmp_path / "1" / "provenance.json").write_text(json.dumps(record | {"warnings": ["step 16: the model is lost"]}))
    assert main(["best", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-4:] == [
        "# the winner of simu has collapsed: "
        "forget Repetition 0.985 (before: 0.010), forget Finished 0.000 (before: 1.000)",
        "python -m simu.run model=tiny data=mini method=simu mask.t=0.6",
        "# the best of simu that has not collapsed:",
        "python -m simu.run model=tiny data=mini method=simu mask.t=0.3",
    ]
    groups, tables = tables_of(tmp_path)
    candidates = best.table(groups, "aggregate", [], best.winner(groups, "aggregate", []))
    assert [row.cells[-1] for row in candidates.rows] == ["winner, collapsed", "best that has not collapsed"]
    runs = tables["runs_qa"]
    heads = [" ".join(filter(None, (c.span, c.label))) for c in runs.columns]
    said = {row.cells[heads.index("settings")]: row.cells[heads.index("warning")] for row in runs.rows}
    assert said == {"": "", "t=0.3": "", "t=0.6": "collapsed"}
    assert {"Forget Repetition", "Forget Finished", "Forget Empty"} <= set(heads)
    assert any("simu · dual (t=0.6)" in note and "Repetition 0.985" in note for note in runs.notes)
    assert any("step 16: the model is lost" in note for note in runs.notes)
    (trade,) = (p for p in draw(groups, []) if p.name.startswith("figure4_tradeoff"))
    assert "Hollow: collapsed (1 of 2 configs" in trade.caption
    (legend,) = (t.get_text() for t in trade.figure.axes[0].get_legend().get_texts())
    assert "Repetition 0.01" in legend
    assert "Finished 1.00" in legend


def test_where_all_have_collapsed_the_command_says_so(tmp_path, make_run, capsys):
    path = make_run(tmp_path / "run") / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"retain/empty": 0.9}))
    assert main(["best", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "# the winner of simu has collapsed: retain Empty 0.900"
    assert lines[-1] == "# every config of simu that holds the constraint has collapsed"


@pytest.mark.parametrize(
    ("after", "before", "said"),
    [
        ({"forget/repetition_rate": 0.51}, {}, ["forget Repetition 0.510"]),
        ({"forget/repetition_rate": 0.5}, {}, []),
        (
            {"forget/finished": 0.49, "retain/finished": 0.5},
            {"forget/finished": 0.9},
            ["forget Finished 0.490 (before: 0.900)"],
        ),
        ({"forget/finished": 0.1}, {"forget/finished": 0.2}, []),  # texts are long for what may be generated, as before
        ({"world_facts/empty": 1.0, "holdout/empty": 1.0, "forget/Task1/empty": 1.0}, {}, ["world facts Empty 1.000"]),
    ],
)
def test_signs_of_a_collapse(after, before, said):
    from simu.metrics.collapse import collapsed

    assert collapsed(after | {f"original/{key}": value for key, value in before.items()}) == said
