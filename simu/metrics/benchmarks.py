"""What a report shows first of each benchmark. A run names its benchmark; nothing is guessed from keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One axes of a figure: its title and the metrics that it draws, each with its own direction."""

    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Which of its metrics a reader sees, in which order."""

    name: str
    title: str
    """As tables are headed: 'question answering (TOFU)'."""
    headline: tuple[str, ...]
    """Keys of the summary at the end of a run."""
    columns: tuple[str, ...]
    """Keys of the main table (the paper's Table 1 or 2), in its order."""
    main: frozenset[str]
    """Of `columns`: those kept where a terminal has no room for all."""
    printed: Mapping[str, str]
    """Key → column of the paper's printed table."""
    more: tuple[str, ...]
    """Keys of the table beyond the paper."""
    panels: tuple[Panel, ...]
    """Forgetting, utility, aggregate."""
    forgotten: tuple[str, float]
    """What counts as forgotten unless told otherwise: (key, largest value)."""
    number: int = 0
    """Of the paper's table; 0: none."""
    by_group: tuple[str, ...] = field(default=())
    """Keys of a further table, by task."""
    ranked: tuple[str, ...] = ("aggregate_fair", "aggregate")
    """What `best` chooses by unless told otherwise: the first that all of the configs have."""
    printed_with: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Key → settings under which ours is made as the printed figure is: with others no difference is taken."""
    generations: int = 0
    """Number of the paper's table of generated texts; 0: none."""


_QA_PRINTED = {
    "aggregate": "aggregate",
    "forget/choice_accuracy": "forget_em",
    "forget/rouge_l_recall": "forget_rouge_l",
    "mia/soul_compat": "mia",
    "retain/choice_accuracy": "retain_em",
    "retain/rouge_l_recall": "retain_rouge_l",
    "world_facts/contains_answer": "world_facts_em",
    "world_facts/rouge_l_recall": "world_facts_rouge_l",
}
_LUME_PRINTED = {
    f"{split}/{measure}": f"{split}_{column}"
    for split in ("forget", "retain")
    for measure, column in (("regurgitation", "reg"), ("knowledge", "kno"))
}
_LUME_TASKS_PRINTED = {
    key.replace("/", f"/Task{task}/"): column.replace("_", f"_task{task}_")
    for split in ("forget", "retain")
    for task in (1, 2, 3)
    for key, column in _LUME_PRINTED.items()
    if key.startswith(split)
}
_BEYOND_FORGET = tuple(f"forget/{name}" for name in ("extraction_strength", "repetition_rate", "empty"))
_BEYOND_RETAIN = tuple(f"retain/{name}" for name in ("repetition_rate", "empty"))

_QA = Benchmark(
    name="qa",
    title="question answering (TOFU)",
    number=1,
    generations=6,
    printed_with={"aggregate": {"evaluator.aggregate_em": "choice_accuracy", "evaluator.aggregate_mia": "soul_compat"}},
    headline=(
        "aggregate_fair",
        "aggregate",
        "forget/exact_match",
        "forget/rouge_l_recall",
        "retain/exact_match",
        "retain/rouge_l_recall",
        "world_facts/contains_answer",
        "real_authors/contains_answer",
        "mia/min_k",
        "mia/loss",
    ),
    columns=(
        "aggregate",
        "forget/choice_accuracy",
        "forget/exact_match",
        "forget/rouge_l_recall",
        "mia/soul_compat",
        "mia/min_k",
        "retain/choice_accuracy",
        "retain/exact_match",
        "retain/rouge_l_recall",
        "world_facts/contains_answer",
        "world_facts/rouge_l_recall",
    ),
    main=frozenset({"aggregate", "forget/rouge_l_recall", "mia/min_k", "retain/rouge_l_recall"}),
    printed=_QA_PRINTED,
    more=(
        "aggregate_fair",
        "forget_quality",
        "model_utility",
        "forget/probability",
        "forget/truth_ratio",
        *_BEYOND_FORGET,
        "retain/probability",
        "retain/truth_ratio",
        *_BEYOND_RETAIN,
    ),
    panels=(
        Panel(title="Forgetting", keys=("forget/rouge_l_recall", "forget/exact_match", "mia/min_k")),
        Panel(
            title="Utility",
            keys=("retain/rouge_l_recall", "retain/exact_match", "world_facts/contains_answer"),
        ),
        Panel(title="Aggregate", keys=("aggregate",)),
    ),
    forgotten=("forget/rouge_l_recall", 0.3),
)
_LUME = Benchmark(
    name="lume",
    title="LUME",
    number=2,
    generations=7,
    headline=("aggregate_fair", "aggregate", *_LUME_PRINTED, "mia/min_k", "mia/loss"),
    columns=("aggregate", "forget/regurgitation", "forget/knowledge", "mia/loss", *list(_LUME_PRINTED)[2:]),
    main=frozenset({"aggregate", *_LUME_PRINTED, *_LUME_TASKS_PRINTED}),
    printed={"aggregate": "aggregate", **_LUME_PRINTED, "mia/loss": "mia", **_LUME_TASKS_PRINTED},
    more=(
        "aggregate_fair",
        "task_aggregate",
        "mia_final",
        "mmlu",
        "official_final",
        "forget/probability",
        *_BEYOND_FORGET,
        "retain/probability",
        *_BEYOND_RETAIN,
    ),
    panels=(
        Panel(title="Forgetting", keys=("forget/regurgitation", "forget/knowledge")),
        Panel(title="Utility", keys=("retain/regurgitation", "retain/knowledge")),
        Panel(title="Aggregate", keys=("aggregate",)),
    ),
    forgotten=("forget/regurgitation", 0.3),
    by_group=tuple(_LUME_TASKS_PRINTED),
)

BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in (_QA, _LUME)}
"""By the name that an evaluator gives as `benchmark`."""
