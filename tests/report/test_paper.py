"""The printed numbers: types, identities that the paper states, and what does not add up is marked."""

from __future__ import annotations

import pytest

from simu.report import paper


def test_table1_aggregates_follow_the_stated_formula_except_where_a_note_says_so():
    rows = paper.table1()
    assert len(rows) == 8
    for row in rows:
        terms = [
            1 - row["forget_em"],
            1 - row["forget_rouge_l"],
            1 - row["mia"],
            row["retain_em"],
            row["retain_rouge_l"],
        ]
        follows = abs(sum(terms) / 5 - row["aggregate"]) < 6e-5
        assert follows == ("follows" not in row["note"])
    odd = paper.find(rows, model="olmo_1b", method="original")
    assert odd is not None
    assert odd["aggregate"] == 0.4227
    assert "0.4427" in odd["note"]


def test_table3_and_table4_are_parsed_by_column():
    assert paper.find(paper.table3(), data="tofu", model="olmo_1b") == {
        "data": "tofu",
        "model": "olmo_1b",
        "t": 0.1,
        "m": 5,
        "batch_size": 16,
        "note": "",
    }
    row = paper.find(paper.table4(), data="lume", model="llama2_7b", method="simu")
    assert row is not None
    assert (row["learning_rate"], row["epochs"], row["retain_weight"]) == (pytest.approx(9e-6), 20, 2.0)
    assert isinstance(row["epochs"], int)
    assert isinstance(row["retain_weight"], float)
    assert len(paper.table4()) == 12
    assert len(paper.table3()) == 4


def test_fo_on_lume_olmo_has_half_the_epochs_and_says_so():
    rows = [row for row in paper.table4() if row["data"] == "lume" and row["model"] == "olmo_1b"]
    assert {row["method"]: row["epochs"] for row in rows} == {"fo_graddiff": 5, "so_graddiff": 10, "simu": 10}
    assert [bool(row["note"]) for row in rows] == [True, False, False]


def test_table5_totals_are_layers_times_width_and_notes_give_the_share():
    rows = paper.table5()
    assert {row["model"]: row["total_mlp_neurons"] for row in rows} == {"llama2_7b": 32 * 4096, "olmo_1b": 16 * 2048}
    for row in rows:
        assert row["note"].startswith(f"{100 * row['critical_mlp_neurons'] / row['total_mlp_neurons']:.1f} %")


def test_table2_has_every_row_and_a_caller_cannot_change_the_next_reading():
    assert len(paper.table2()) == 8
    paper.table2()[0]["aggregate"] = -1
    assert paper.table2()[0]["aggregate"] == 0.504
    assert paper.find(paper.table2(), model="olmo_1b", method="npo") is None
