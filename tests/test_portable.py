"""`precision.portable`: what a small model says does not depend on the number of cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from commands import SMALL, run_folder, simu

from simu import portable


@pytest.fixture
def threads(monkeypatch):
    """The threads of this process, given back."""
    before = torch.get_num_threads()
    monkeypatch.setattr(portable, "THREADS", [])
    yield
    torch.set_num_threads(before)


def test_a_portable_run_has_one_thread_and_the_next_run_its_own(threads):
    torch.set_num_threads(3)
    portable.set_threads(False)
    assert torch.get_num_threads() == 3
    portable.set_threads(True)
    assert torch.get_num_threads() == 1
    portable.set_threads(True)
    portable.set_threads(False)
    assert torch.get_num_threads() == 3


def test_instructions_are_narrowed_before_torch_loads_and_what_is_set_stays():
    if not portable._has_avx2():
        pytest.skip("no AVX2 on this processor")
    code = "from simu.portable import narrow_instructions as n; n(); import torch; "
    code += "print(torch.backends.cpu.get_cpu_capability())"
    for given, said in ({}, "AVX2"), ({"ATEN_CPU_CAPABILITY": "default"}, "DEFAULT"):
        env = {k: v for k, v in os.environ.items() if k not in portable.WIDTH} | given
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


@pytest.mark.slow
def test_figures_are_equal_bytes_on_one_two_and_four_threads(tmp_path):
    """Taught enough for rounding to show: without `portable` the first two differ."""
    found = []
    for count in ("1", "2", "4"):
        folder = tmp_path / count
        folder.mkdir()
        words = [word for word in SMALL if not word.startswith("model.target.max_epochs")]
        words += ["model.hidden_size=64", "model.target.max_epochs=10", "tracker=none"]
        simu(*words, cwd=folder, OMP_NUM_THREADS=count)
        assert json.loads((run_folder(folder) / "provenance.json").read_text())["status"] == "completed"
        found.append((run_folder(folder) / "metrics.json").read_bytes())
    assert found[0] == found[1] == found[2]
