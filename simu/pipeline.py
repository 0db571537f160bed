"""A run: target → attribution → mask → unlearning → evaluation → robustness. The data flow, readable aloud.

What each stage computes, and from what alone, is in its file in `simu.stages`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from simu.checks import UNTAUGHT, check_attacks, check_base, check_planted, check_sides, check_sizes
from simu.config import STAGES, RunConfig
from simu.console import show
from simu.data.comparing import check_apart
from simu.dryrun import describe
from simu.inference.slots import context_limit
from simu.localisation import localised
from simu.metrics.metric import row_metrics
from simu.models.anatomy import anatomy
from simu.models.load import Loaded
from simu.portable import set_threads
from simu.report.attacks import print_attacks
from simu.report.summary import print_summary
from simu.results import Results
from simu.sharding import is_sharded, join
from simu.slots import OfPlanted
from simu.stages import alternatives, attribution, evaluation, mask, robustness, target, unlearning, weights
from simu.stages.artifact import Artifact, Context, Setup, do
from simu.step import check_update
from simu.store import provenance
from simu.store.cache import Cache
from simu.tracking import Silent
from simu.training import Training
from simu.types import Evaluation, NeuronMask, NeuronUnit, Scores, Splits

log = logging.getLogger("simu")


def run(cfg: RunConfig, record: provenance.Record, folder: Path, labels: Mapping[str, str]) -> float | None:
    """Do the stages in `cfg.stages` and fill the run's folder; the aggregate after unlearning (None: none asked)."""
    again = record.write()
    splits = read_rows(cfg)
    if not cfg.dry_run:
        cfg.model.check(cfg.data.name)  # what is out of reach is said before hours of work, not after
    check_sizes(cfg)
    check_planted(cfg, splits)
    check_attacks(cfg, splits)
    check_update(cfg.optimizer, cfg.perturbation, is_sharded())
    if cfg.dry_run:
        plan = describe(cfg, splits)  # before `show`, which takes a ValueError for a stream's
        show(lambda: print(plan))
        record.end("dry run")
        return None
    if "evaluation" in cfg.stages:
        cfg.evaluator.check()
    if cfg.retain_reference:
        check_base(cfg)
    if again:
        record.clear()
    set_threads(cfg.precision.portable)
    group = join()
    main = group is None or bool(group.is_main_process)
    tracker = cfg.tracker.open(folder, record.switches, labels) if main else Silent()
    context = Context(cache=Cache(Path(cfg.cache_dir)), device=device_of(cfg, group), group=group, tracker=tracker)
    results = Results(folder, tracker, main)
    try:
        flow(cfg, splits, context, results)
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish()
    record.end("completed", stages=context.done, **results.noted)
    if "evaluation" in cfg.stages and main:
        warned = results.noted.get("warnings", ())
        show(lambda: print_summary(results.metrics, cfg.method.name, cfg.evaluator.benchmark, warned))
        show(
            lambda: print_attacks(
                results.metrics, tuple(cfg.robustness.attacks), cfg.robustness.metrics, cfg.method.name
            )
        )
    log.info("run folder: %s", folder)
    return results.metrics.get("aggregate")


def flow(cfg: RunConfig, splits: Splits, context: Context, results: Results) -> None:
    """The stages in order. Those that are asked for leave their artifacts; others run only where these need them."""
    cfg = with_plain_weights(cfg, cfg.data.name, context)
    asked, setup = set(cfg.stages), setup_of(cfg, splits, context)
    trains = cfg.training.steps(len(splits.forget)) > 0
    last = max(STAGES.index(stage) for stage in asked)
    needed = set(STAGES if cfg.save_model else STAGES[: last + 1]) if trains else asked
    before, chosen, scores = None, None, {}

    taught = the_target(cfg, splits, setup, context)
    if "evaluation" in asked:
        reference = the_retain_only(cfg, splits, setup, context)
        before = evaluated(cfg, splits, setup, context, taught, reference, "original")
        results.save_original(before.load())
    units = target.planted_units(taught)
    of_planted = isinstance(cfg.mask, OfPlanted)
    if "attribution" in needed and cfg.selection.reads_mask and not of_planted:
        scores = {side: scored(cfg, splits, setup, context, taught, side) for side in sorted(cfg.mask.needs)}
    if "attribution" in asked:
        results.save_scores({side: artifact.load() for side, artifact in scores.items()}, cfg.attribution)
    if "mask" in needed and cfg.selection.reads_mask:
        chosen = masked(cfg, context, oracle(taught, cfg.attribution.unit) if of_planted else scores).load()
    if "mask" in asked and chosen is not None:
        results.save_mask(
            chosen, {side: artifact.load() for side, artifact in scores.items()}, cfg.mask, cfg.attribution.unit
        )
    unlearned = taught
    if "unlearning" in needed and trains:
        unlearned = unlearning_of(cfg, splits, setup, context, taught, chosen)
    if units is not None and cfg.model.target.plant_unit == cfg.attribution.unit:
        changed = unlearned if unlearned is not taught else None
        results.save_localisation(localised(units, cfg.attribution.unit, taught, scores.get("forget"), chosen, changed))
    after = before
    if before is not None and unlearned is not taught:
        after = evaluated(cfg, splits, setup, context, unlearned, reference, cfg.method.name)

    if "unlearning" in asked and unlearned is not taught:
        results.save_training(unlearned)
    if after is not None:
        results.save_evaluation(after.load())
    if cfg.save_model:
        results.save_model(*unlearned.load())
    if "robustness" in asked and cfg.robustness.attacks:
        victims = {"": unlearned, "original": taught} | retain_only_of(cfg, splits, setup, context)
        for attack in cfg.robustness.attacks:
            found = {who: attacked(cfg, splits, setup, context, model, attack, who) for who, model in victims.items()}
            results.save_attack(attack, {who: artifact.load() for who, artifact in found.items()})


# ---- each stage with its inputs


def with_plain_weights(cfg: RunConfig, data: str, context: Context) -> RunConfig:
    """The run with the weights for `data` in a plain folder: those of a GGUF file or an adapter are unpacked, once."""
    if (packed := cfg.model.packed(data)) is None:
        return cfg
    made = do(weights, weights.Inputs(source=packed, dtype=cfg.precision.weights), context, "weights")
    context.done["weights"] |= made.load()
    log.info("%-24s %s", "", context.done["weights"]["source"])
    model = cfg.model.unpacked(data, cast(Path, made.folder) / "model")
    model.check(data)
    return replace(cfg, model=model)


def the_target(
    cfg: RunConfig, splits: Splits, setup: Setup, context: Context, retain_only: bool = False
) -> Artifact[Loaded]:
    """A model that has memorised forget and retain rows (or the latter alone): published, or taught here."""
    everything = target_rows(cfg, splits)
    base = target.Base(model=cfg.model, data=UNTAUGHT if retain_only else cfg.data.name, vocabulary=everything)
    if not retain_only and (source := cfg.model.published(cfg.data.name)) is not None:
        said = f"{cfg.model.name}, taught nothing" if cfg.model.target.skip else f"{source}, as published"
        log.info("%-24s %s", "target", said)
        return target.published(base, setup, context)
    recipe = replace(cfg.model.target, plant=None) if retain_only else cfg.model.target
    apart = planted_rows(cfg, splits) if recipe.plant else None
    kept = frozenset(e.id for e in (*apart.forget, *apart.decoy)) if apart else frozenset()
    inputs = target.Inputs(
        base=base,
        recipe=recipe,
        rows=tuple(e for e in target_rows(cfg, splits, retain_only) if e.id not in kept),
        planted=apart,
        setup=setup,
        seed=cfg.seed,
        checkpoint_every=cfg.training.checkpoint_every,
    )
    return do(target, inputs, context, "target (retain only)" if retain_only else "target")


def planted_rows(cfg: RunConfig, splits: Splits) -> target.Planted:
    """The forget rows, and as many retained rows as decoys; drawn with `plant_seed`."""
    decoy = attribution.sample(splits.retain, len(splits.forget), cfg.model.target.plant_seed)
    return target.Planted(forget=splits.forget, decoy=decoy)


def oracle(taught: Artifact[Loaded], unit: NeuronUnit) -> dict[str, Artifact[Scores]]:
    """The planted units as scores of 0 and 1, for `mask=planted`."""

    def read() -> Scores:
        units = target.planted_units(taught)
        assert units is not None
        return Scores(units.forget.float(), 0, unit=unit)

    return {"forget": Artifact("planted", taught.digest, None, read)}


def scored(
    cfg: RunConfig, splits: Splits, setup: Setup, context: Context, taught: Artifact[Loaded], side: str
) -> Artifact[Scores]:
    """Attribution of the forget rows, or of a sample of the retain rows of the same size."""
    rows, other = splits.forget, attribution.sample(splits.retain, len(splits.forget), cfg.seed)
    if side == "retain":
        rows, other = other, rows
    inputs = attribution.Inputs(
        target=taught,
        attribution=cfg.attribution,
        rows=rows,
        other=other if cfg.attribution.reads_other else None,
        setup=setup,
    )
    return do(attribution, inputs, context, f"attribution ({side})")


def masked(cfg: RunConfig, context: Context, scores: Mapping[str, Artifact[Scores]]) -> Artifact[NeuronMask]:
    """Which neurons train."""
    parts = anatomy(cfg.model.skeleton(cfg.data.name, cfg.precision.dtype))
    inputs = mask.Inputs(
        mask=cfg.mask,
        forget=scores.get("forget"),
        retain=scores.get("retain"),
        unit=cfg.attribution.unit,
        shape=parts.shape(cfg.attribution.unit),
    )
    return do(mask, inputs, context, "mask")


def unlearning_of(
    cfg: RunConfig,
    splits: Splits,
    setup: Setup,
    context: Context,
    taught: Artifact[Loaded],
    chosen: NeuronMask | None,
) -> Artifact[Loaded]:
    """Objective × optimizer × selection; with the target's own other answers where the forget loss reads them."""
    other = alternatives.wanted(cfg.objective, taught, splits.forget, setup, cfg.seed)
    inputs = unlearning.Inputs(
        target=taught,
        mask=chosen,
        unit=cfg.attribution.unit if cfg.selection.reads_mask else "row",
        objective=cfg.objective,
        optimizer=cfg.optimizer,
        perturbation=cfg.perturbation,
        selection=cfg.selection,
        training=cast(Training, cfg.training),
        forget=splits.forget,
        retain=splits.retain,
        alternatives=do(alternatives, other, context, "alternatives") if other else None,
        setup=setup,
        seed=cfg.seed,
    )
    return do(unlearning, inputs, context, f"unlearning ({cfg.method.name})")


def evaluated(
    cfg: RunConfig,
    splits: Splits,
    setup: Setup,
    context: Context,
    model: Artifact[Loaded],
    reference: Artifact[Evaluation] | None,
    label: str,
) -> Artifact[Evaluation]:
    """What the evaluator says of a model."""
    inputs = evaluation.Inputs(
        model=model,
        evaluator=cfg.evaluator,
        data=splits.name,
        rows=splits.evaluation,
        metrics=row_metrics(),
        reference=reference,
        setup=setup,
    )
    return do(evaluation, inputs, context, f"evaluation ({label})")


def the_retain_only(cfg: RunConfig, splits: Splits, setup: Setup, context: Context) -> Artifact[Evaluation] | None:
    """Evaluation of a model that never saw the forget rows: forget_quality and the reference attack compare with it."""
    if not cfg.retain_reference:
        return None
    cfg = with_plain_weights(cfg, UNTAUGHT, context)
    taught = the_target(cfg, splits, setup, context, retain_only=True)
    return evaluated(cfg, splits, setup, context, taught, None, "retain only")


def retain_only_of(cfg: RunConfig, splits: Splits, setup: Setup, context: Context) -> dict[str, Artifact[Loaded]]:
    """The model that never saw the forget rows, as a control; none where no such model is asked for."""
    if not cfg.retain_reference:
        return {}
    cfg = with_plain_weights(cfg, UNTAUGHT, context)
    return {"retain_only": the_target(cfg, splits, setup, context, retain_only=True)}


def attacked(
    cfg: RunConfig, splits: Splits, setup: Setup, context: Context, model: Artifact[Loaded], attack: str, who: str
) -> Artifact[Evaluation]:
    """What one attack brings back of a model. Rates are the target's: tenth of it for a model from its config."""
    inputs = robustness.Inputs(
        model=model,
        attack=cfg.robustness.attacks[attack],
        evaluator=cfg.evaluator,
        kept=cfg.robustness.metrics,
        data=splits.name,
        evaluation={name: rows[: cfg.robustness.rows] for name, rows in splits.evaluation.items()},
        forget=splits.forget,
        retain=splits.retain,
        metrics=row_metrics(),
        relearn_lr=cfg.model.target.lr / 10 if cfg.model.learns_background else 2e-5,
        setup=setup,
        seed=cfg.seed,
    )
    return do(robustness, inputs, context, f"{attack} ({(who or cfg.method.name).replace('_', ' ')})")


# ---- what every stage reads


def read_rows(cfg: RunConfig) -> Splits:
    """The data set, read and checked."""
    splits = cfg.data()
    check_sides(cfg, splits)
    for line in check_apart(splits, cfg.data.name, allowed=cfg.data.overlap == "allow"):
        log.warning("%s", line)
    return splits


def target_rows(cfg: RunConfig, splits: Splits, retain_only: bool = False) -> tuple[Any, ...]:
    """What a target is taught. Background rows stand in for pre-training: only a model that had none learns them."""
    background = splits.background if cfg.model.learns_background else ()
    return (*(() if retain_only else splits.forget), *splits.retain, *background)


def setup_of(cfg: RunConfig, splits: Splits, context: Context) -> Setup:
    """Template (the data set's own before the model's), length and number formats. Rows are no longer than the model
    has positions for."""
    positions = context_limit(cfg.model.skeleton(cfg.data.name, cfg.precision.dtype))
    if positions is not None and positions < cfg.model.max_length:
        log.warning(
            "model.max_length=%d: the model has %d positions, rows are cut to these", cfg.model.max_length, positions
        )
    return Setup(
        template=splits.template or cfg.model.layout(cfg.data.name),
        max_length=min(cfg.model.max_length, positions or cfg.model.max_length),
        precision=cfg.precision,
        device=context.device.type,
    )


def device_of(cfg: RunConfig, group: Any) -> torch.device:
    """What this process works on; a process of a group has its own."""
    torch.backends.cuda.matmul.allow_tf32 = cfg.precision.tf32
    return torch.device(group.device) if group and cfg.device == "auto" else cfg.torch_device()
