"""The alternatives stage: what it leaves, what it is a function of, and that unlearning reads it."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch

from simu.data.refusals import REFUSALS
from simu.losses.forget.altpo import AltPO
from simu.losses.forget.dpo import DPO
from simu.losses.objective import Objective
from simu.losses.retain.none import NoRetain
from simu.stages import alternatives
from simu.stages.artifact import Artifact, Context, Setup, do
from simu.store.cache import Cache
from simu.store.identity import address
from simu.types import Precision, Template

SETUP = Setup(
    template=Template(prompt="Q: {prompt}\nA:", separator=" "),
    max_length=64,
    precision=Precision(weights="float32", master=True, tf32=False),
    device="cpu",
)
OBJECTIVE = Objective(forget=AltPO(alternatives=3, max_new_tokens=12), retain=NoRetain(), retain_weight=0.0)


@pytest.fixture
def target(memorised, tokenizer):
    return Artifact("target", "0123", None, lambda: (memorised, tokenizer))


def context(folder) -> Context:
    return Context(cache=Cache(folder), device=torch.device("cpu"), group=None, tracker=MagicMock())


def test_each_row_has_its_alternatives_part_by_part(target, small_splits, tmp_path):
    rows = small_splits.forget
    inputs = alternatives.wanted(OBJECTIVE, target, rows, SETUP, 0)
    made = do(alternatives, inputs, context(tmp_path), "alternatives")
    found = made.load()
    assert [e.id for e in found] == [e.id for e in rows] * 3
    assert [e.prompt for e in found] == [e.prompt for e in rows] * 3
    answers = {e.id: e.answer for e in rows}
    assert all(e.answer and e.answer != answers[e.id] for e in found)
    again = do(alternatives, inputs, context(tmp_path), "alternatives")
    assert again.cached
    assert again.load() == found


def test_it_is_keyed_by_all_that_it_depends_on(target, small_splits):
    inputs = alternatives.wanted(OBJECTIVE, target, small_splits.forget, SETUP, 0)
    changes = {
        "target": replace(target, digest="4567"),
        "rows": small_splits.forget[1:],
        "count": 4,
        "max_new_tokens": 13,
        "setup": replace(SETUP, max_length=32),
        "seed": 1,
    }
    digests = {
        address("alternatives", alternatives.__name__, replace(inputs, **{k: v})).digest for k, v in changes.items()
    }
    assert len(digests | {address("alternatives", alternatives.__name__, inputs).digest}) == len(changes) + 1


def test_only_a_loss_that_reads_own_alternatives_wants_them(target, small_splits):
    assert alternatives.wanted(replace(OBJECTIVE, forget=DPO()), target, small_splits.forget, SETUP, 0) is None


def test_a_row_without_another_answer_is_refused_an_answer(target, small_splits, tmp_path, monkeypatch, caplog):
    rows = small_splits.forget[:2]
    monkeypatch.setattr(alternatives.departures, "alternatives", lambda *_, **__: [[], ["Oslo.", "Rome."]])
    inputs = alternatives.wanted(OBJECTIVE, target, rows, SETUP, 0)
    found = do(alternatives, inputs, context(tmp_path), "alternatives").load()
    assert [e.answer for e in found if e.id == rows[1].id] == ["Oslo.", "Rome.", "Oslo."]
    (refusal,) = {e.answer for e in found if e.id == rows[0].id}
    assert refusal in REFUSALS
    assert "1 of 2 rows have no other answer" in caplog.text
