"""What an attack must be: it measures copies of a model that it is given, the same each time."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from simu.data.mini import Mini
from simu.evaluation.tofu import TofuEvaluator
from simu.metrics.metric import SUFFIXES
from simu.robustness.victim import Victim
from simu.slots import Attack
from simu.testing import evaluators
from simu.testing.contract import Check, of, run_checks
from simu.types import Precision

METRICS = ("forget/rouge_l_recall", "forget/probability", "retain/probability")


@dataclass(frozen=True)
class Given:
    attack: Attack

    @property
    def bench(self) -> evaluators.Given:
        evaluator = TofuEvaluator(max_new_tokens=8, bootstrap=0, truth_ratio=False, choice_scorer="none")
        return evaluators.Given(evaluator, Mini(authors=4, holdout_authors=1)())

    def victim(self, model: PreTrainedModel) -> Victim:
        bench = self.bench
        tokenizer, splits = bench.tokenizer, bench.splits

        def load() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
            return copy.deepcopy(model), tokenizer

        return Victim(
            load=load,
            evaluator=bench.evaluator,
            kept=METRICS,
            data=splits.name,
            evaluation={name: rows[:4] for name, rows in splits.evaluation.items()},
            forget=splits.forget,
            retain=splits.retain,
            template=bench.template,
            max_length=512,
            precision=Precision(weights="float32", master=True, tf32=False),
            relearn_lr=1e-3,
            seed=0,
        )

    def metrics(self, model: PreTrainedModel) -> dict[str, float]:
        victim = self.victim(model)
        self.attack(victim)
        return victim.metrics


def check_attack(attack: Attack, *, expected_failed_checks: Mapping[str, str] | None = None) -> None:
    """Hold an attack to its contract (`simu.slots.Attack`). Raises AssertionError, naming attack, check and mistake."""
    run_checks(attack, Given(attack), CHECKS, expected_failed_checks)


def measures_forget_rows(given: Given) -> None:
    """SETTING/forget/METRIC, finite numbers."""
    found = given.metrics(given.bench.model())
    keys = [key for key in found if key.rsplit("/", 1)[-1] not in SUFFIXES]
    assert any(key.split("/")[1:2] == ["forget"] for key in keys), (
        f"measured {', '.join(sorted(keys)[:3]) or 'nothing'}; a metric of forget rows is needed: victim.evaluate, or "
        "victim.note(setting, {'forget/…': value})"
    )
    bad = [key for key, value in found.items() if not math.isfinite(value)]
    assert not bad, f"{bad[0]} is {found[bad[0]]}"


def leaves_the_rows(given: Given) -> None:
    """A model is its own to spoil; rows stay as they were."""
    victim = given.victim(given.bench.model())
    before = (victim.evaluation, victim.forget, victim.retain, victim.seed)
    kept = copy.deepcopy(before)
    given.attack(victim)
    assert before == kept == (victim.evaluation, victim.forget, victim.retain, victim.seed), "changed its victim's rows"


def finds_the_same_twice(given: Given) -> None:
    """A function of its fields, the model, the rows and the seed."""
    model = given.bench.model()
    first, again = given.metrics(model), given.metrics(model)
    differ = [key for key in first if first[key] != again.get(key)]
    assert not differ, f"{differ[0]} was {first[differ[0]]} and then {again.get(differ[0])}"


def reads_its_model(given: Given) -> None:
    """Another model is found otherwise."""
    one, other = (given.metrics(given.bench.model(seed)) for seed in (0, 1))
    assert one != other, "found the same of two models"


CHECKS: tuple[Check, ...] = (
    *of("attack"),
    measures_forget_rows,
    leaves_the_rows,
    finds_the_same_twice,
    reads_its_model,
)
