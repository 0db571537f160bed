"""When two rows are the same row, and which splits must not share any."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest

from simu.config import build
from simu.data.comparing import check_apart, compared, overlaps, shared_rows
from simu.types import Example, Splits, UserError


def rows(split: str, *texts: tuple[str, str]) -> tuple[Example, ...]:
    return tuple(Example(id=f"{split}/{i}", prompt=p, answer=a) for i, (p, a) in enumerate(texts))


FORGET = rows("forget", ("Who?", "Zoë."), ("Where?", "Here."), ("When?", "Now."))
RETAIN = rows("retain", ("Why?", "So."), ("Who?", "Ada."), ("How?", "Thus."))


def splits(forget=FORGET, retain=RETAIN, **evaluation) -> Splits:
    return Splits(name="x", forget=forget, retain=retain, evaluation=evaluation)


def test_the_compared_form_is_nfc_without_white_space_around():
    assert compared(" Zoe\u0308\n") == "Zo\u00eb"
    assert compared("\u212b") == "\u00c5"  # the sign of the unit is the letter
    assert compared("ﬁ") == "ﬁ"  # not NFKC: a ligature is another text


@pytest.mark.parametrize(
    "other",
    [("Who?", "Zoë."), (" who? ", "ZOË."), ("Who?", unicodedata.normalize("NFD", "Zoë."))],
    ids=["equal", "case and space", "normal form"],
)
def test_rows_in_forget_and_retain_are_refused_by_name(other):
    both = splits(retain=(*RETAIN, Example(id="retain/9", prompt=other[0], answer=other[1])))
    with pytest.raises(UserError) as error:
        check_apart(both, "notes", allowed=False)
    assert str(error.value) == (
        "data=notes: 1 of 3 forget rows stand in retain, too (forget/0 = retain/9): what is to be forgotten would be "
        "taught again; take them out of one, or pass data.overlap=allow"
    )
    (said,) = check_apart(both, "notes", allowed=True)
    assert said.startswith("data.overlap=allow: 1 of 3 forget rows stand in retain, too")


def test_one_question_with_two_answers_is_no_overlap():
    assert shared_rows(FORGET, RETAIN) == []
    assert check_apart(splits(), "notes", allowed=False) == []


def test_forget_is_retain():
    with pytest.raises(UserError, match=r"3 of 3 forget rows stand in retain, too \(forget/0 = forget/0, forget/1"):
        check_apart(splits(retain=FORGET), "notes", allowed=False)
    many = rows("forget", *((f"{i}?", "x") for i in range(9)))
    (said,) = overlaps(splits(forget=many, retain=many))
    assert said.endswith("forget/2 = forget/2 and 6 more): what is to be forgotten would be taught again")


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_what_is_held_out_must_not_be_taught(side):
    held = replace({"forget": FORGET, "retain": RETAIN}[side][1], id="holdout/0")
    (said,) = overlaps(splits(holdout=(held,)))
    assert said == (f"1 of 1 holdout rows stand in {side}, too (holdout/0 = {side}/1): they are no non-members")


def test_documents_are_compared_with_the_rows_that_they_are_made_of():
    def document(split: str, text: str) -> tuple[Example, ...]:
        return (Example(id=f"{split}/0", prompt="", answer=text),)

    found = overlaps(splits(mia_nonmember=document("n", "Who? Zoë."), mia_member=document("m", "Who? Zoë.")))
    assert [line.split(" stand in ")[1].split(",")[0] for line in found] == ["mia_member", "forget"]
    assert overlaps(splits(mia_member=document("m", "Who? Zoë."))) == []


def test_a_run_refuses_before_any_stage_and_so_does_a_dry_run(tmp_path, monkeypatch):
    from hydra import compose, initialize_config_dir

    from simu import pipeline
    from simu.config import build_run, conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = build_run(compose("config", overrides=["method=original", "tracker=none"]))
    shared = replace(cfg.data(), retain=(*cfg.data().retain, replace(cfg.data().forget[0], id="again")))
    monkeypatch.setattr(type(cfg.data), "__call__", lambda self: shared)
    for dry in (False, True):
        with pytest.raises(UserError, match=r"^data=mini: 1 of 20 forget rows stand in retain, too \(author018/"):
            pipeline.read_rows(replace(cfg, dry_run=dry))
    assert pipeline.read_rows(replace(cfg, data=replace(cfg.data, overlap="allow"))) == shared


@pytest.mark.parametrize("option", ["mini", "tofu", "lume"])
def test_the_key_is_refused_by_name(option):
    node = {"_target_": f"simu.data.{option}.{option.capitalize()}", "overlap": "maybe"}
    with pytest.raises(UserError, match=r"data\.overlap='maybe': allowed is refuse, allow|refuse or allow"):
        build(node, "data")
