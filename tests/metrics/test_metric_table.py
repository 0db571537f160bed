"""The table of metrics: how keys are understood, and how one file adds an entry."""

import math
import sys

import pytest

import simu.metrics
from simu.inference.generate import Generation
from simu.metrics import metric as table
from simu.metrics.benchmarks import BENCHMARKS
from simu.metrics.evidence import TextEvidence, row_scores
from simu.metrics.metric import KNOWN, Metric, Near, find, row_mean
from simu.types import Example, Subject

OTHER_DIRECTION = {"lower": "higher", "higher": "lower"}


@pytest.mark.parametrize(
    ("key", "label", "span", "better"),
    [
        ("forget/exact_match", "forget exact match", "Forget", "lower"),
        ("original/retain/rouge_l_recall", "retain ROUGE-L recall", "Retain", "higher"),
        ("world_facts/contains_answer", "world facts contains answer", "World facts", "higher"),
        ("forget/mean_nll", "forget NLL", "Forget", "higher"),
        ("holdout/mean_nll", "holdout NLL", "Holdout", None),
        ("forget/Task2/knowledge/ssn", "forget Task2 ssn knowledge", "Forget, task 2, ssn", "lower"),
        ("retain/Task1/regurgitation", "retain Task1 regurgitation", "Retain, task 1", "higher"),
        ("retain/distinct_1", "retain Distinct-1", "Retain", None),
        ("mia/min_k", "membership AUC, min-k", "MIA AUC", Near(value=0.5)),
        ("mia/loss/tpr_at_1_fpr", "mia loss TPR at 1 % FPR", "MIA, loss", "lower"),
        ("aggregate", "Aggregate", "", "higher"),
        ("original/task_aggregate", "Task aggregate", "SemEval", "higher"),
    ],
)
def test_a_key_is_understood(key, label, span, better):
    found = find(key)
    assert (found.label, found.span, found.better) == (label, span, better)


@pytest.mark.parametrize(
    "key",
    ["forget/exact_match/ci_low", "mia/fold/n_members", "mia/n_windowed", "forget/n", "forget/unheard", "unheard"],
)
def test_counts_intervals_and_unknown_keys_belong_to_no_entry(key):
    assert find(key) is None


def test_entries_are_sound():
    for metric in table.entries().values():
        low, high = metric.bounds
        assert low < high, metric.key
        assert metric.label, metric.key
        assert metric.source, metric.key
        assert metric.chance is None or low <= metric.chance <= high, metric.key
        for better in metric.better.values():
            assert not isinstance(better, Near) or low <= better.value <= high, metric.key
        assert (metric.aggregate == "mean") or metric.score is None, metric.key


def test_knowledge_has_opposite_directions_on_forget_and_retain_rows():
    for metric in table.row_metrics():
        if metric.better.get("forget") == KNOWN["forget"] and metric.key not in ("repetition_rate", "empty"):
            assert metric.better["retain"] == OTHER_DIRECTION["lower"], metric.key


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda b: b.name)
def test_a_benchmark_shows_metrics_that_have_a_direction(benchmark):
    panels = [key for panel in benchmark.panels for key in panel.keys]
    for key in (*benchmark.headline, *benchmark.columns, *benchmark.more, *benchmark.by_group, *panels):
        assert find(key) is not None, key
        assert find(key).better is not None, key
    shown = {*benchmark.columns, *benchmark.by_group}
    assert benchmark.main <= shown
    assert set(benchmark.printed) <= shown
    assert benchmark.forgotten[0] in benchmark.columns


def test_reads_and_score_come_together():
    fields = {"key": "x", "label": "x", "better": {}, "bounds": (0, 1), "aggregate": "mean", "source": "here"}
    with pytest.raises(ValueError, match="come together"):
        Metric(**fields, reads="text")
    with pytest.raises(ValueError, match="come together"):
        Metric(**fields, score=lambda _: 1.0)


def test_row_scores_calls_what_the_row_has_something_for():
    row = Example(id="forget/0", prompt="Who?", answer="Ada")
    asked = TextEvidence(
        benchmark="qa", split="forget", example=row, generation=Generation(ids=(5,), text="Ada", finished=True)
    )
    length = row_mean("length", "Length", "text", lambda e: float(len(e.generation.text)), "here", partial=True)
    never = row_mean("never", "Never", "text", lambda _: None, "here")
    tokens = row_mean("tokens", "Tokens", "tokens", lambda _: 1.0, "here")
    foreign = row_mean("foreign", "Foreign", "text", lambda _: 1.0, "here", benchmarks=frozenset({"lume"}))
    whole = row_mean("whole", "Whole", "text", lambda e: float(e.answer == e.generation.text), "here")
    metrics = (length, never, tokens, foreign, whole)
    assert row_scores(metrics, "text", asked) == {"length": 3.0, "whole": 1.0}
    assert row_scores(metrics, "text", asked, partial=True) == {"length": 3.0}


@pytest.fixture
def fresh_table(monkeypatch):
    """The table as a new process would read it, and afterwards again as it was."""
    table.table.cache_clear()
    table.entries.cache_clear()
    yield monkeypatch
    table.table.cache_clear()
    table.entries.cache_clear()


ONE_FILE = '''
"""Answer length."""
from simu.metrics.metric import row_mean

METRICS = (
    row_mean("answer_words", "Words", "text", lambda e: float(len(e.generation.text.split())), "a count",
             better={}, bounds=(0, float("inf"))),
)
'''


def test_one_file_adds_a_metric(fresh_table, tmp_path, small_model, tokenizer, small_splits):
    from simu.evaluation.tofu import TofuEvaluator
    from simu.types import Template

    (tmp_path / "answer_words.py").write_text(ONE_FILE)
    fresh_table.setattr(simu.metrics, "__path__", [*simu.metrics.__path__, str(tmp_path)])
    try:
        assert find("forget/answer_words").label == "forget Words"
        assert "simu.metrics.answer_words" in table.row_modules()
        evaluator = TofuEvaluator(max_new_tokens=6, bootstrap=0, truth_ratio=False, choice_scorer="none")
        found = evaluator(Subject(small_model, tokenizer, Template()), small_splits)
    finally:
        sys.modules.pop("simu.metrics.answer_words", None)
    words = [len(r["generated"].split()) for r in found.rows if r["split"] == "forget"]
    assert found.metrics["forget/answer_words"] == pytest.approx(math.fsum(words) / len(words))
    assert "holdout/answer_words" not in found.metrics


def test_two_entries_of_one_key_are_refused(fresh_table, tmp_path):
    (tmp_path / "again.py").write_text(ONE_FILE.replace("answer_words", "exact_match"))
    fresh_table.setattr(simu.metrics, "__path__", [*simu.metrics.__path__, str(tmp_path)])
    try:
        with pytest.raises(ValueError, match="two metrics have the key 'exact_match'"):
            table.entries()
    finally:
        sys.modules.pop("simu.metrics.again", None)


def test_the_table_is_read_without_torch():
    import subprocess

    code = "import sys; from simu.metrics.metric import table; assert table(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
