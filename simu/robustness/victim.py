"""What an attack is given: a model to itself, the run's rows, and the run's evaluator to ask with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simu.slots import Evaluator
from simu.types import Example, Precision, Splits, Subject, Template


@dataclass(kw_only=True)
class Victim:
    """A model under attack. Each `load` is a fresh copy on the device: whatever is done to it reaches no other."""

    load: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
    evaluator: Evaluator
    kept: tuple[str, ...]
    """Its metrics that are kept; none: all of forget and retain rows."""
    data: str
    evaluation: Mapping[str, tuple[Example, ...]]
    """Rows by split, those of the attack's evaluations."""
    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    """Training rows."""
    template: Template
    max_length: int
    precision: Precision
    relearn_lr: float
    """The rate at which relearning is done on this model, where an attack names none."""
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    """SETTING/metric → value, so far."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """For robustness.jsonl, so far."""
    warnings: list[str] = field(default_factory=list)

    def evaluate(
        self,
        setting: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        evaluation: Mapping[str, Iterable[Example]] | None = None,
        template: Template | None = None,
    ) -> None:
        """Ask the evaluator of `model` and keep what it says under `setting`. `evaluation`: other rows by split;
        `template`: how these become text, if not as the run's."""
        asked = {metric.split("/")[0] for metric in self.kept} or {"forget", "retain"}
        rows = {name: tuple(some) for name, some in (evaluation or self.evaluation).items() if name in asked}
        was_training = model.training
        model.eval()
        found = self.evaluator(
            Subject(model, tokenizer, template or self.template, self.max_length),
            Splits(name=self.data, forget=(), retain=(), evaluation=rows),
            reference=None,
        )
        model.train(was_training)
        self.note(setting, {key: value for key, value in found.metrics.items() if self.keeps(key)})
        self.rows += [{"setting": setting, **row} for row in found.rows if row["split"] in ("forget", "retain")]

    def keeps(self, key: str) -> bool:
        """Whether a metric of the evaluator is kept: those named, with their intervals and numbers of rows."""
        name = key.removesuffix("/ci_low").removesuffix("/ci_high")
        split = name.split("/")[0]
        if not self.kept:
            return split in ("forget", "retain")
        return name in self.kept or name in {f"{metric.split('/')[0]}/n" for metric in self.kept}

    def note(self, setting: str, metrics: Mapping[str, float]) -> None:
        """Keep figures under `setting`."""
        self.metrics |= {f"{setting}/{key}": value for key, value in metrics.items()}

    def warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)
