"""Every figure that an evaluator gives has an entry in the metric table, and every entry is given by an evaluator."""

from dataclasses import replace

import pytest

from simu.evaluation.lume import LumeEvaluator
from simu.evaluation.tofu import TofuEvaluator
from simu.metrics import metric as table
from simu.metrics.benchmarks import BENCHMARKS
from simu.types import Example, Splits, Subject, Template

TEMPLATE = Template(prompt="Q: {prompt}\nA:")
TOFU = TofuEvaluator(max_new_tokens=8, bootstrap=20)
SOUL = {"attacks": ("min_k", "soul_compat"), "aggregate_mia": "soul_compat", "aggregate_em": "choice_accuracy"}
THEIRS = {"attacks": (*TOFU.attacks, "grad_norm"), "mia_k": 0.4, "choice_scorer": "none"}
TOFU_MODES = {
    "none": TOFU,
    "likelihood": replace(TOFU, choice_scorer="likelihood"),
    "soul": replace(TOFU, compat="soul", **SOUL),
    "open_unlearning": replace(TOFU, compat="open_unlearning", **THEIRS),
}
LUME_MODES = {
    "whole": LumeEvaluator(max_new_tokens=8, bootstrap=20, mmlu=0.4),
    "stopped": LumeEvaluator(max_new_tokens=8, bootstrap=20, stop_wrong_answers=True),
}


def lume_rows(name: str) -> tuple[Example, ...]:
    kinds = {"Task1": ("sc1", "qa0"), "Task2": ("sc1", "qa0", "qa1", "qa2", "qa3", "qa4"), "Task3": ("sc1", "qa0")}
    return tuple(
        Example(id=f"{name}{task}{kind}", prompt=f"{kind} of {name}, {task}?", answer=f"{name} {kind}.", group=task)
        for task, found in kinds.items()
        for kind in found
    )


@pytest.fixture(scope="module")
def lume_splits() -> Splits:
    documents = {
        split: tuple(Example(id=f"{split}/{i}", prompt="", answer=f"{split} {i}.", group="fold") for i in range(3))
        for split in ("mia_member", "mia_nonmember")
    }
    rows = {split: lume_rows(split) for split in ("forget", "retain")}
    return Splits(name="lume", **rows, evaluation={**rows, **documents})


@pytest.fixture(scope="module")
def emitted(small_model, memorised, tokenizer, small_splits, lume_splits) -> dict[str, dict[str, float]]:
    """Metrics of every mode, of models that know the rows and that do not, with a reference."""
    found = {}
    for splits, modes in ((small_splits, TOFU_MODES), (lume_splits, LUME_MODES)):
        for mode, evaluator in modes.items():
            reference = evaluator(Subject(small_model, tokenizer, TEMPLATE), splits)
            told = evaluator(Subject(memorised, tokenizer, TEMPLATE), splits, reference=reference)
            found[f"{evaluator.benchmark}, {mode}"] = told.metrics
            found[f"{evaluator.benchmark}, {mode}, reference"] = reference.metrics
    return found


def matches(key: str) -> list[str]:
    """Entries that a key could belong to."""
    parts = key.split("/")
    return [e for e in table.entries() if e == key or (len(parts) > 1 and parts[0] in table.SPLIT_ROLES and e in parts)]


def test_every_key_has_exactly_one_entry_or_is_a_suffix_of_one(emitted):
    for mode, metrics in emitted.items():
        for key in metrics:
            name, _, last = key.rpartition("/")
            if last in table.SUFFIXES:
                assert table.find(key) is None
                assert name in metrics or name in table.SPLIT_ROLES or name.startswith("mia"), (mode, key)
                continue
            assert len(matches(key)) == 1, (mode, key)
            assert table.find(key).metric.key == matches(key)[0], (mode, key)


def test_every_entry_is_given_by_an_evaluator(emitted):
    given = {found.metric.key for metrics in emitted.values() for key in metrics if (found := table.find(key))}
    pipeline = {key for key in table.entries() if key.startswith(("localisation/", "change/"))}  # of masks and updates
    assert given == set(table.entries()) - pipeline


def test_every_figure_is_within_its_bounds(emitted):
    for mode, metrics in emitted.items():
        for key, value in metrics.items():
            if found := table.find(key):
                low, high = found.metric.bounds
                assert low <= value <= high, (mode, key, value)


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda b: b.name)
def test_what_a_benchmark_shows_is_given_by_its_evaluator(emitted, benchmark):
    given = {key for mode, metrics in emitted.items() if mode.startswith(f"{benchmark.name},") for key in metrics}
    panels = [key for panel in benchmark.panels for key in panel.keys]
    asked = {*benchmark.headline, *benchmark.columns, *benchmark.more, *benchmark.by_group, *panels}
    assert asked <= given
