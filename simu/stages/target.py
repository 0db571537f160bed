"""The target stage: a model that has memorised its rows. Taught here, unless a finished one is published."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import load_file

from simu.data.batching import Encoded, encode_examples, pad_id
from simu.fields import KNOB
from simu.inference.likelihood import score
from simu.losses.objective import teach
from simu.models.anatomy import anatomy
from simu.models.load import FineTune, Loaded, load_folder, save_folder, texts_of
from simu.selection.core import apply_tensors
from simu.selection.select import select_parameters
from simu.sharding import shard
from simu.slots import Model
from simu.stages.artifact import Artifact, Context, Setup
from simu.stages.planting import Units, draw_units, plant
from simu.store.cache import CHECKPOINT
from simu.store.files import digest, write_json, write_tensors
from simu.store.identity import describe, rows_digest
from simu.training import Training, train
from simu.types import Example

log = logging.getLogger("simu")

NAME, TOGETHER = "target", True
PLANTED = "planted.safetensors"
SCORED_TOKENS = 16384
"""Of a batch in which it is looked whether rows are memorised."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model before it is taught: random weights and a tokenizer of the rows, or a pretrained model."""

    model: Model
    data: str
    """The data set's name, by which published targets are found."""
    vocabulary: tuple[Example, ...]
    """Rows that a tokenizer is made from where the model has none of its own."""

    def identity(self) -> dict[str, Any]:
        own = {"vocabulary": rows_digest(self.vocabulary)} if self.model.learns_background else {}
        return describe({"model": self.model.identity(self.data), **own})

    @property
    def modules(self) -> tuple[str, ...]:
        return (type(self.model).__module__,)

    def load(self, setup: Setup, seed: int) -> Loaded:
        texts = texts_of([(e.prompt, e.answer) for e in self.vocabulary], setup.template)
        return self.model.load(self.data, texts, seed, setup.precision.dtype)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Rows that some units alone are taught."""

    forget: tuple[Example, ...]
    decoy: tuple[Example, ...]
    """Retained rows, for as many other units."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    base: Base
    recipe: FineTune
    rows: tuple[Example, ...]
    """What is taught; of a planted target in its part (a)."""
    planted: Planted | None = None
    """What is taught in part (b) (`simu.stages.planting`); None: the target is not planted."""
    setup: Setup
    seed: int
    checkpoint_every: Annotated[int, KNOB]
    """Optimizer steps between checkpoints; 0: none."""


def compute(inputs: Inputs, folder: Path, context: Context) -> None:
    """Fine-tune the base until it has memorised its rows: folder/model and target.json."""
    recipe, setup = inputs.recipe, inputs.setup
    model, tokenizer = inputs.base.load(setup, inputs.seed)
    shard(model.to(context.device))  # type: ignore[arg-type]
    encoded = encode_examples(tokenizer, setup.template, inputs.rows, setup.max_length)
    shares: list[float] = []

    def memorised(epoch: int) -> bool:
        if epoch % recipe.check_every:
            return False
        scores = score(model, tokenizer, encoded, max_batch_tokens=SCORED_TOKENS)
        shares.append(sum(bool(s.hit.all()) for s in scores) / len(scores))
        log.info("%-24s epoch %d: %.1f %% of %d rows memorised", NAME, epoch, 100 * shares[-1], len(encoded))
        return shares[-1] >= recipe.memorised

    selection = select_parameters(model, None, scope="all", master=setup.precision.master)
    result = train(
        model,
        selection,
        torch.optim.AdamW(selection.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay),
        teach(),
        encoded,
        settings=Training(
            epochs=recipe.max_epochs,
            batch_size=recipe.batch_size,
            warmup=0.02,
            checkpoint_every=inputs.checkpoint_every,
        ),
        pad_id=pad_id(tokenizer),
        seed=inputs.seed,
        checkpoint=folder / CHECKPOINT / "training.pt",
        stop=memorised,
        label="target: fine-tuning",
    )
    if context.group:  # sharded weights are gathered; the main process puts them into a model of its own
        model, _ = inputs.base.load(setup, inputs.seed)
        apply_tensors(model, selection.trained_tensors())
    else:
        selection.merge()
    if not result.stopped:
        reached, wanted = 100 * (shares or [0.0])[-1], 100 * recipe.memorised
        log.warning(
            "target: %.1f %% of rows memorised after model.target.max_epochs=%d, not the %.1f %% asked for",
            reached,
            recipe.max_epochs,
            wanted,
        )
    told: dict[str, Any] = {}
    if inputs.planted is not None:
        told = planted_in(inputs, inputs.planted, model, tokenizer, encoded, folder)
    if context.main:
        save_folder(model, tokenizer, folder / "model")
        of_all = {"rows": len(inputs.rows), "steps": result.steps, "memorised": shares[-1:]}
        write_json(folder / "target.json", of_all | told)


def planted_in(
    inputs: Inputs, rows: Planted, model: Any, tokenizer: Any, replayed: list[Encoded], folder: Path
) -> dict[str, Any]:
    """Part (b): folder/planted.safetensors (bool [L, units]: `forget`, `decoy`); what target.json says of it."""
    recipe, setup = inputs.recipe, inputs.setup
    assert recipe.plant is not None
    units = draw_units(anatomy(model).shape(recipe.plant_unit), recipe.plant, recipe.plant_seed)
    sides = {"forget": rows.forget, "decoy": rows.decoy}
    texts = {name: encode_examples(tokenizer, setup.template, some, setup.max_length) for name, some in sides.items()}
    done = plant(
        model,
        tokenizer,
        texts | ({"replayed": replayed} if replayed else {}),
        units,
        recipe,
        pad_id=pad_id(tokenizer),
        seed=inputs.seed,
        master=setup.precision.master,
        checkpoint=folder / CHECKPOINT / "planting.pt",
        checkpoint_every=inputs.checkpoint_every,
    )
    write_tensors(folder / PLANTED, {"forget": units.forget, "decoy": units.decoy}, {"unit": recipe.plant_unit})
    return {"planted": {"steps": done.steps, "memorised": dict(done.memorised)}}


def planted_units(target: Artifact[Loaded]) -> Units | None:
    """Which units of a target hold what; None where nothing is planted."""
    if target.folder is None or not (target.folder / PLANTED).is_file():
        return None
    return Units(**load_file(target.folder / PLANTED))


def load(inputs: Inputs, folder: Path, context: Context) -> Loaded:
    """A fresh copy of the target, on the device, and its tokenizer."""
    model, tokenizer = load_folder(folder / "model", inputs.setup.precision.dtype)
    return model.to(context.device), tokenizer  # type: ignore[arg-type]


def published(base: Base, setup: Setup, context: Context) -> Artifact[Loaded]:
    """A finished target that somebody published: nothing is computed."""

    def read() -> Loaded:
        model, tokenizer = base.load(setup, 0)
        return model.to(context.device), tokenizer  # type: ignore[arg-type]

    return Artifact(NAME, digest({"published": base.identity(), "setup": describe(setup)}), None, read)
