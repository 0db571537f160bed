from __future__ import annotations

from collections import defaultdict
from statistics import mean

import pytest
from rouge_score.rouge_scorer import RougeScorer

from simu.data import digest
from simu.data.mini import Mini, forget_count, phrases
from simu.types import FieldError


def topic(row):
    return row.id.split("/")[1]


def authors(rows):
    return {row.group for row in rows}


def test_default_sizes_and_shape():
    splits = Mini()()
    assert (len(splits.forget), len(splits.retain)) == (20, 180)
    sizes = {name: len(rows) for name, rows in splits.evaluation.items()}
    assert sizes == {"forget": 20, "retain": 180, "holdout": 40, "world_facts": 24, "real_authors": 8}
    assert splits.background == splits.evaluation["world_facts"] + splits.evaluation["real_authors"]
    assert splits.template is None
    for row in splits.forget + splits.retain + splits.evaluation["holdout"]:
        distinct = {row.answer, row.paraphrased_answer, *row.perturbed_answers}
        assert len(distinct) == 7
        assert row.paraphrased_prompt != row.prompt
    for row in splits.background:
        assert len({row.answer, *row.perturbed_answers}) == 4


def test_rows_are_unique_and_authors_disjoint():
    splits = Mini()()
    rows = splits.forget + splits.retain + splits.evaluation["holdout"] + splits.background
    for values in ([r.id for r in rows], [r.prompt for r in rows]):
        assert len(set(values)) == len(values)
    groups = [authors(splits.forget), authors(splits.retain), authors(splits.evaluation["holdout"])]
    assert [len(g) for g in groups] == [2, 18, 4]
    assert len(set.union(*groups)) == 24


def test_every_pool_has_one_length_and_no_repeats():
    pools = phrases().pools
    assert {len(values) for values in pools.values()} == {32}
    assert all(len(set(values)) == len(values) for values in pools.values())
    assert len(phrases().first_names) == len(phrases().last_names)


def test_no_placeholder_is_left():
    splits = Mini()()
    for row in splits.forget + splits.retain:
        for text in (row.prompt, row.answer, row.paraphrased_prompt, row.paraphrased_answer, *row.perturbed_answers):
            assert text
            assert "{" not in text
            assert "  " not in text
            assert text == text.strip()


@pytest.mark.parametrize("seed", [0, 1])
def test_forget_answers_cannot_be_guessed_from_retain_answers(seed):
    """Retain ROUGE must not buy forget ROUGE: ROUGE-L recall against another author's same topic stays low."""
    splits = Mini(seed=seed)()
    others = defaultdict(list)
    for row in splits.retain:
        others[topic(row)].append(row.answer)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    means = [mean(scorer.score(f.answer, r)["rougeL"].recall for r in others[topic(f)]) for f in splits.forget]
    assert mean(means) < 0.2
    assert max(means) < 0.35


def test_paraphrase_keeps_the_facts_and_perturbation_changes_them():
    """The award's year is stated in every phrasing, so a paraphrase holds it and no perturbed answer does."""
    for row in Mini()().forget:
        if topic(row) == "award":
            year = next(word for word in row.answer.replace(",", " ").replace(".", " ").split() if word.isdigit())
            assert year in row.paraphrased_answer
            assert all(year not in answer for answer in row.perturbed_answers)


def test_seed_decides_content():
    assert digest(Mini()().retain) == digest(Mini()().retain)
    assert digest(Mini(seed=1)().retain) != digest(Mini()().retain)


def test_forget_offset_moves_the_forget_authors_and_nothing_else():
    shown, search = Mini()(), Mini(forget_offset=1)()
    assert authors(search.forget) == {"author016", "author017"}  # of 20; the shown run forgets 018 and 019
    assert not authors(shown.forget) & authors(search.forget)
    assert set(shown.forget + shown.retain) == set(search.forget + search.retain)
    assert shown.evaluation["holdout"] == search.evaluation["holdout"]


def test_more_authors_leave_the_first_ones_alone():
    small, large = Mini(authors=10)(), Mini(authors=30)()
    rows = {row.id: row for row in large.forget + large.retain}
    assert all(rows[row.id] == row for row in small.forget + small.retain)


@pytest.mark.parametrize(
    ("authors", "forget", "count"), [(20, "01", 1), (20, "05", 1), (20, "10", 2), (50, "05", 3), (200, "01", 2)]
)
def test_forget_share(authors, forget, count):
    assert forget_count(authors, forget) == count
    assert len(Mini(authors=authors, forget=forget)().forget) == 10 * count


def test_row_caps():
    splits = Mini(retain_rows=30, evaluation_rows=12)()
    assert len(splits.retain) == 30
    assert splits.evaluation["retain"] == splits.retain[:12]
    assert {len(rows) for rows in splits.evaluation.values()} == {12, 8}
    assert len(splits.forget) == 20


def test_large_sizes_have_unique_names_and_prompts():
    splits = Mini(authors=400, holdout_authors=400)()
    prompts = [r.prompt for r in splits.forget + splits.retain + splits.evaluation["holdout"]]
    assert len(set(prompts)) == 800 * len(phrases().topics)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("authors", 3),
        ("authors", 401),
        ("holdout_authors", 0),
        ("forget_offset", 10),
        ("forget_offset", -1),
        ("retain_rows", 0),
        ("evaluation_rows", -5),
    ],
)
def test_ranges(field, value):
    with pytest.raises(FieldError, match=f"{field}={value}"):
        Mini(**{field: value})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "194d62f33fae5b85b562a744eca88f5f82d4457393896e2b99c0dd0da3286c4c"),
        ({"seed": 1}, "06784b09a271b24ee3bc414becc9c7b5ecabd8edca99f3516a74093d2432d723"),
        (
            {"seed": 7, "authors": 400, "holdout_authors": 400},
            "4a7ecd69e6770a155f62b887988aa0675c9eb22a7b7f627f105ec1a2ee300be2",
        ),
        (
            {"forget": "05", "forget_offset": 2, "authors": 50},
            "ec255168520d3709f18ccce8f1ea605a4675a3479ca12acdc5cbd7ff7279d33a",
        ),
    ],
)
def test_content_is_pinned(fields, expected):
    """A change of words changes every cached target and printed number: then change these digests knowingly."""
    splits = Mini(**fields)()
    assert digest(splits.forget + splits.retain + splits.evaluation["holdout"] + splits.background) == expected
