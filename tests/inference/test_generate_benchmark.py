"""benchmarks/evaluation.py runs, and finds equal text, on a few real rows and small models."""

import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evaluation.py"


def test_benchmark_finds_equal_text(tofu_dir, monkeypatch, capsys, tmp_path):
    spec = importlib.util.spec_from_file_location("benchmark_evaluation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    options = f"--data {tofu_dir} --rows 3 --hidden-size 64 --vocabulary 400 --max-new-tokens 60 --models {tmp_path}"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options.split()])
    module.main()
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for state in module.STATES:
        assert "6/   6" in lines[state]
        assert (tmp_path / f"{state}-6-64.pt").is_file()
