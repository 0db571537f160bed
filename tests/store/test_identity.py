"""An address changes with everything that can change a result, and with nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simu.fields import knobs
from simu.masks.critical import Dual, ForgetOnly
from simu.stages.artifact import Artifact
from simu.store.files import tensor_digest
from simu.store.identity import describe, rows_digest
from simu.training import Training
from simu.types import Example

ROW = Example(id="a/0", prompt="p", answer="é")


def test_rows_by_their_content():
    """SHA-256 of the rows' canonical JSON, spelt out."""
    cells = {
        "id": "a/0",
        "prompt": "p",
        "answer": "é",
        "group": "",
        "paraphrased_prompt": None,
        "paraphrased_answer": None,
        "perturbed_answers": [],
    }
    text = json.dumps(cells, sort_keys=True, separators=(",", ":")) + "\n"
    assert rows_digest([ROW]) == hashlib.sha256(text.encode()).hexdigest()
    other = replace(ROW, answer="e")
    assert rows_digest([ROW, other]) != rows_digest([other, ROW])


def test_tensors_by_type_shape_and_bytes():
    x = torch.arange(4, dtype=torch.float32)
    expected = hashlib.sha256(b"torch.float32(4,)" + x.numpy().tobytes()).hexdigest()
    assert tensor_digest(x) == expected
    assert len({tensor_digest(y) for y in (x, x.double(), x.view(2, 2), x + 1, x.bfloat16(), x > 1)}) == 6


def test_components_by_name_and_fields():
    assert describe(Dual(t=0.3)) == {"component": "Dual", "t": 0.3}
    assert describe(Dual(t=0.3)) != describe(Dual(t=0.4))
    assert describe(Dual(t=0.3)) != describe(ForgetOnly(t=0.3))


def test_knobs_are_left_out():
    one, two = Training(epochs=1, batch_size=2), Training(epochs=1, batch_size=2, checkpoint_every=7)
    assert "checkpoint_every" in knobs(Training)
    assert describe(one) == describe(two)
    assert describe(one) != describe(replace(one, epochs=2))


def test_an_artifact_stands_for_itself():
    made = Artifact("target", "abc", Path("/somewhere"), lambda: None)
    assert describe({"x": made}) == {"x": {"stage": "target", "digest": "abc"}}


@pytest.mark.parametrize("value", [Path("x"), object(), len])
def test_what_has_no_content_is_refused(value):
    with pytest.raises(TypeError, match="has no identity"):
        describe(value)
