"""What a run refuses once its rows are read, and before any weight is."""

from __future__ import annotations

import os

from simu.config import RunConfig
from simu.fields import limits
from simu.models.anatomy import anatomy
from simu.slots import OfPlanted, ReadsRows
from simu.types import Splits, UserError

UNTAUGHT = ""
"""No data set's name: nothing is published for it, so the model is the base itself."""


def check_sides(cfg: RunConfig, splits: Splits) -> None:
    """Raise UserError where there are no rows to forget, or none to retain though something reads them."""
    if not splits.forget:
        raise UserError(f"data={cfg.data.name}: the forget set is empty; allowed is at least one row")
    scored = cfg.selection.reads_mask and bool(cfg.mask.needs)
    readers = (
        (cfg.objective.retain.reads_rows, "the objective reads it", "objective/retain=none"),
        (scored and "retain" in cfg.mask.needs, "the mask reads its scores", "another mask, as dual"),
        (scored and cfg.attribution.reads_other, "the attribution compares with it", "another attribution, as snip"),
        (cfg.retain_reference, "retain_reference=true teaches it", "retain_reference=false"),
    )
    for reads, why, instead in readers:
        if reads and not splits.retain:
            raise UserError(
                f"data={cfg.data.name}: the retain set is empty, and {why}; allowed is at least one row, or {instead}"
            )


def check_planted(cfg: RunConfig, splits: Splits) -> None:
    """Raise UserError where a planted target is asked for that cannot be, or a mask of planted units without one."""
    recipe, masks = cfg.model.target, cfg.selection.reads_mask and isinstance(cfg.mask, OfPlanted)
    if recipe.plant is None:
        if masks:
            raise UserError("mask=planted: nothing is planted; allowed with model.target.plant=SHARE, as 0.2")
        return
    if (known := cfg.model.published(cfg.data.name)) is not None:
        raise UserError(f"model.target.plant={recipe.plant}: {known} is taught nothing; allowed is null")
    if masks and recipe.plant_unit != cfg.attribution.unit:
        raise UserError(
            f"mask=planted: units are planted in {recipe.plant_unit} (model.target.plant_unit), and selected in "
            f"{cfg.attribution.unit} (attribution.unit); allowed is the same"
        )
    if len(splits.retain) <= len(splits.forget):
        raise UserError(
            f"model.target.plant={recipe.plant}: {len(splits.retain)} retained rows, of which {len(splits.forget)} "
            "become decoys; allowed are more than there are rows to forget"
        )


def check_base(cfg: RunConfig) -> None:
    """Raise UserError where a retain-only model cannot be made: of a model that knows the forget rows already."""
    if (known := cfg.model.published(UNTAUGHT)) is not None:
        raise UserError(
            f"retain_reference=true: {known} knows the rows (model.is_target, model.target.skip), so that no model of "
            "the retain rows alone can be taught from it; allowed is false"
        )
    cfg.model.check(UNTAUGHT)


def check_sizes(cfg: RunConfig) -> None:
    """Raise UserError for a number that the model's sizes do not allow, a layer's above all. Loads no weight."""
    if not (found := list(limits(cfg))):
        return
    parts = anatomy(cfg.model.skeleton(cfg.data.name, cfg.precision.dtype))
    units = parts.units(cfg.attribution.unit)
    sizes = {
        "last layer": parts.n_layers - 1,
        "width": parts.d_model,
        "number of neurons": parts.n_layers * units,
        "number of neurons a layer": units,
    }
    for key, number, most in found:
        if number > (size := sizes[most.size]):
            raise UserError(f"{key}={number}: allowed is x ≤ {size}, the {most.size} of {cfg.model.name}")


def check_attacks(cfg: RunConfig, splits: Splits) -> None:
    """Raise UserError for attacks that cannot be made, here or on these rows."""
    attacks = cfg.robustness.attacks if "robustness" in cfg.stages else {}
    if attacks and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "robustness: attacks are made in one process; allowed with several is robustness=none, and then the same "
            "command in one process, which finds the stages in the cache"
        )
    for name, attack in attacks.items():
        if isinstance(attack, ReadsRows) and not attack.taught(splits.forget, splits.retain, splits.evaluation):
            raise UserError(
                f"robustness.attacks.{name}.rows={attack.rows}: the data set has none; allowed is another of forget, "
                "retain, holdout"
            )
