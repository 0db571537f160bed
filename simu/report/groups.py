"""Runs of one config are one row of a table: a mean over seeds and an interval, always with its n."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from simu.metrics.collapse import MAIN_SPLITS, collapsed, signs
from simu.metrics.metric import PREFIXES, SUFFIXES
from simu.report.defaults import option_of_method
from simu.report.estimate import Estimate, neurons, of_metric, of_seeds
from simu.report.run import ALL_WEIGHTS, SLOTS, Run, slot_of

ORIGINAL = "original"
PREFIX = f"{PREFIXES[0]}/"
OWNERS = {"objective": ("objective", "objective.retain")}
"""Slots with a slot inside: their settings belong to both options."""
SAID = 3  # settings that a place names; of more, the rest becomes a number


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Runs that differ in nothing but their seed. `original` looks at the same runs' model before unlearning."""

    runs: tuple[Run, ...]
    settings: Mapping[str, object]
    place: str
    """The data, and what tells this model, data and evaluator from others of the same names: 'mini (forget_offset=4)'.
    Only groups of one model and place were asked the same, so only they are set side by side."""
    original: bool = False
    varying: tuple[str, ...] = ()
    """Options in which this group differs from others of the same model, place, method and mask, or that its method
    does not pick by itself; then settings in which it differs from those of them that have the same option there."""

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def model(self) -> str:
        return self.first.model

    @property
    def data(self) -> str:
        return self.first.data

    @property
    def benchmark(self) -> str:
        return self.first.benchmark

    @property
    def method(self) -> str:
        return ORIGINAL if self.original else self.first.method

    @property
    def mask(self) -> str:
        return "–" if self.original else self.first.mask

    @property
    def seeds(self) -> int:
        return len({run.seed for run in self.runs})

    @property
    def evaluated(self) -> bool:
        """False where every run stopped before its evaluation on purpose."""
        return any(run.metrics for run in self.runs)

    @property
    def kind(self) -> str:
        """'simu · dual', 'simu · dual · objective=npo × ce': method, mask and options that set it apart."""
        return " · ".join([self.method, *([] if self.original else [self.mask]), *self._options()])

    @property
    def foreign(self) -> dict[str, str]:
        """Slot → option that its method does not pick by itself: with one it is another method than its name says."""
        if self.original:
            return {}
        keys = ["mask", *(key for key in self.settings if self.is_option(key))]
        unread = ("mask", "attribution") if self.mask == ALL_WEIGHTS else ()
        picked = {key: option_of_method(self.method, key) for key in keys if key not in unread}
        return {
            key: str(self.settings.get(key))
            for key, option in picked.items()
            if option is not None and self.settings.get(key) != option
        }

    def _options(self) -> list[str]:
        """'objective=npo × ce', 'optimizer=adamw': those of `varying`."""
        slots = dict.fromkeys(column_of(key) for key in sorted(self.varying) if self.is_option(key))
        return [f"{slot}={said}" for slot in slots if (said := self.option(slot)) != "–"]

    def is_option(self, key: str) -> bool:
        """Whether a setting is the option of a slot ('optimizer', 'objective.retain'); the mask has its own column."""
        return key != "mask" and slot_of(key) in SLOTS and key in self.first.slots

    def option(self, slot: str) -> str:
        """Which option fills a slot, of the objective both losses: 'npo × kl'; '–' for the model before unlearning, and
        for an attribution that nothing reads."""
        if self.original or (slot == "attribution" and self.mask == ALL_WEIGHTS):
            return "–"
        inner = [key for key in self.settings if key.startswith(f"{slot}.") and self.is_option(key)]
        return " × ".join(show(self.settings.get(key, "–")) for key in (slot, *inner))

    def differs(self, most: int | None = None) -> str:
        """'objective=npo × ce, t=0.3': what tells this group from its neighbours, `most` of it."""
        return ", ".join([*self._options(), *self._settings()][:most])

    def apart(self) -> str:
        """'t=0.3, lr=1e-05': the settings alone, beside columns that say the options."""
        return ", ".join(self._settings())

    def _settings(self) -> list[str]:
        return [f"{short(key)}={show(self.settings.get(key))}" for key in self.varying if not self.is_option(key)]

    def label(self) -> str:
        """'simu · dual (t=0.3)'."""
        mask = "" if self.original else f" · {self.mask}"
        return f"{self.method}{mask}" + (f" ({self.differs()})" if self.varying else "")

    @property
    def collapse(self) -> str:
        """By which signs its model has collapsed, of the worst seed: 'forget Repetition 0.985 (before: 0.010), …'; ''
        where none has."""
        every = [] if self.original else [collapsed(run.metrics) for run in self.runs]
        found: list[list[str]] = [said for said in every if said]
        if not found:
            return ""
        seeds = f" ({len(found)} of {len(self.runs)} seeds)" if len(found) < len(self.runs) else ""
        worst: list[str] = max(found, key=len)
        return ", ".join(worst) + seeds

    def warnings(self) -> list[str]:
        """What its runs warned of, each line once."""
        return [] if self.original else list(dict.fromkeys(line for run in self.runs for line in run.warnings))

    def state(self) -> str:
        """'collapsed', 'warned', or ''."""
        return "collapsed" if self.collapse else "warned" if self.warnings() else ""

    def signs(self) -> list[str]:
        """Metrics that tell a collapse, of the first split to forget and the first to keep."""
        return [key for key in signs(self.metrics()) if key.split("/")[0] in MAIN_SPLITS]

    def metrics(self) -> list[str]:
        """Names of the metrics that any of its runs has, without intervals and counts."""
        names = {
            name.removeprefix(PREFIX) if self.original else name
            for run in self.runs
            for name in run.metrics
            if name.startswith(PREFIX) == self.original
        }
        return sorted(name for name in names if name.rsplit("/", 1)[-1] not in SUFFIXES)

    def estimate(self, metric: str) -> Estimate | None:
        """Mean over seeds with its interval; None where no run has the metric."""
        return of_metric(self.runs, f"{PREFIX}{metric}" if self.original else metric)

    def rows(self, split: str) -> int | None:
        """How many rows of a split were scored."""
        n = self.first.metrics.get(f"{PREFIX if self.original else ''}{split}/n")
        return None if n is None else int(n)

    def share_selected(self) -> Estimate | None:
        """Share in [0, 1] of MLP neurons that train, over seeds."""
        counts = [c for run in self.runs if (c := neurons(run))]
        if not counts or self.original:
            return None
        return of_seeds([selected / total for selected, total in counts], counts[0][1])


def group(runs: Iterable[Run]) -> list[Group]:
    """Runs by config; groups in the order of their first run, each told what makes it different.

    One run a seed: of an evaluated and a not evaluated run (stages=[target, attribution, mask]) the evaluated one.
    """
    found: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: not run.metrics):
        found.setdefault(_key(run, run.settings, run.method), {}).setdefault(run.seed, run)
    members = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in found.values()]
    places = _places(itertools.chain(*members))
    groups = [Group(runs=same, settings=same[0].settings, place=places[_asked(same[0])]) for same in members]
    return [_told_apart(g, groups) for g in groups if g.first.method != ORIGINAL]


def originals(runs: Iterable[Run]) -> list[Group]:
    """The models before unlearning: one group for each model, data and evaluator, one run for each seed."""
    runs = list(runs)
    places = _places(runs)
    found: dict[str, dict[int, Run]] = {}
    for run in sorted(runs, key=lambda run: -len(run.metrics)):  # retain_reference gives a run more metrics
        if any(name.startswith(PREFIX) for name in run.metrics):
            found.setdefault(_asked(run), {}).setdefault(run.seed, run)
    return [
        Group(
            runs=tuple(seeds[seed] for seed in sorted(seeds)),
            place=places[key],
            original=True,
            settings=_before_unlearning(next(iter(seeds.values()))),
        )
        for key, seeds in found.items()
    ]


def varying(groups: Sequence[Group], option: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """Settings that are not the same in all of the groups, options first. What an option brings is compared among the
    groups that have this option: the rate of another optimizer is no setting of this one."""
    keys = dict.fromkeys(key for g in groups for key in g.settings)
    differing = [key for key in keys if _differs(key, groups, option)]
    return tuple(sorted(differing, key=lambda key: not any(g.is_option(key) for g in groups)))


def _differs(key: str, groups: Sequence[Group], option: Mapping[str, object] | None) -> bool:
    """Whether a setting differs between groups with one option in its slot: `option`'s, else any."""
    by_option: dict[object, set[str]] = {}
    for g in groups:
        whose = None if g.is_option(key) or key == "mask" else owner(key, g.settings)
        if option is None or whose is None or whose == owner(key, option):
            by_option.setdefault(whose, set()).add(repr(g.settings.get(key)))
    return any(len(values) > 1 for values in by_option.values())


def owner(key: str, settings: Mapping[str, object]) -> tuple[object, ...] | None:
    """The options of the slot that a setting belongs to; None where it is of no slot of the method."""
    slot = slot_of(key)
    return tuple(settings.get(name) for name in OWNERS.get(slot, (slot,))) if slot in SLOTS else None


def column_of(key: str) -> str:
    """'objective.retain' → 'objective': both losses stand in one column."""
    return slot_of(key)


def short(key: str) -> str:
    """'mask.t' → 't', 'optimizer.lr' → 'lr'; the slot stays where the last word alone would not be understood."""
    known = {
        "mask.t",
        "attribution.m",
        "optimizer.lr",
        "optimizer.gamma",
        "training.epochs",
        "training.batch_size",
        "data.forget",
    }
    if key == "objective.retain_weight":
        return "λ"
    return key.rsplit(".", 1)[-1] if key in known else key


def show(value: object) -> str:
    """A setting as a person types it."""
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def _told_apart(g: Group, groups: Sequence[Group]) -> Group:
    like = [o for o in groups if (o.model, o.place, o.method, o.mask) == (g.model, g.place, g.method, g.mask)]
    own = [key for key in g.foreign if key != "mask"]
    return replace(g, varying=tuple(dict.fromkeys([*own, *varying(like, g.settings)])))


def _places(runs: Iterable[Run]) -> dict[str, str]:
    """Settings of model, data and evaluator (as a key) → the data's name, with what tells them apart where need be."""
    found: dict[tuple[str, str], dict[str, dict[str, object]]] = {}
    for run in runs:
        found.setdefault((run.model, run.data), {})[_asked(run)] = _before_unlearning(run)
    places = {}
    for (_, data), benches in found.items():
        names = dict.fromkeys(name for settings in benches.values() for name in settings)
        apart = [name for name in names if len({repr(s.get(name)) for s in benches.values()}) > 1]
        apart.sort(key=lambda name: not name.startswith("data."))
        for number, (key, settings) in enumerate(sorted(benches.items()), 1):
            said = [f"{name.rsplit('.', 1)[-1]}={show(settings.get(name))}" for name in apart[:SAID]]
            said += [f"… #{number}"] if len(apart) > SAID else []
            places[key] = f"{data} ({', '.join(said)})" if said else data
    return places


def _before_unlearning(run: Run) -> dict[str, object]:
    slots = ("model", "data", "evaluator", "precision")
    return {k: v for k, v in run.settings.items() if slot_of(k) in slots}


def _asked(run: Run) -> str:
    return _key(run, _before_unlearning(run))


def _key(run: Run, settings: Mapping[str, object], *more: str) -> str:
    return repr([run.benchmark, run.model, run.data, *more, sorted(settings.items())])
