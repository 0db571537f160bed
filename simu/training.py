"""One loop for fine-tuning a target and for unlearning: pairs, two backward passes, clip, step, log, checkpoint.

A run of it is a function of the model, the rows, the settings and the seed alone: killed at any step and started again
with the same checkpoint path, it ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch import nn

from simu.data.batching import Encoded, pairing_table
from simu.gradients import (
    Place,
    Side,
    backward,
    clip_norm,
    estimate_curvature,
    here,
    recall,
    sum_gradients,
    sum_over_shards,
)
from simu.losses import Comparing, Objective
from simu.models.reference import untouched_head
from simu.progress import track
from simu.store.checkpoint import Checkpoint, random_state, set_random_state
from simu.types import UserError, require

log = logging.getLogger(__name__)

Record = dict[str, float | int | None]


class Trained(Protocol):
    """What trains: a `simu.selection.core.Selection`, or a whole model."""

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long, in what portions and at what pace."""

    epochs: int
    """Passes over the forget rows; 0 trains nothing."""
    batch_size: int
    """Forget rows a step, over all devices; each draws one retain row."""
    micro_batch_tokens: int | None = 1024
    """Tokens, with padding, a forward pass (one row at least); the rest of the step is accumulated, exactly. Rows of
    like length share a pass. None: the whole batch."""
    warmup: float = 0.1
    """Fraction of the steps in which the learning rate rises linearly to its value."""
    schedule: Literal["linear", "constant"] = "linear"
    """What follows the warm-up: a linear fall to 0 at the end, or nothing."""
    clip_norm: float | None = 1.0
    """Largest global norm of the trained parameters' gradient; None: as it comes."""
    max_steps: int | None = None
    """Stop after so many optimizer steps; the schedule then spans these."""
    checkpoint_every: int = 50
    """Optimizer steps between checkpoints; 0: none."""
    activation_checkpointing: bool = False
    """Recompute a block's activations in backward: about a third slower, far less memory."""

    def __post_init__(self) -> None:
        require(self.epochs >= 0, "epochs", self.epochs, "a whole number ≥ 0")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a whole number ≥ 1")
        micro = self.micro_batch_tokens
        require(micro is None or micro >= 1, "micro_batch_tokens", micro, "a whole number ≥ 1, or null")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "0 ≤ warmup ≤ 1")
        clip = self.clip_norm
        require(clip is None or clip > 0, "clip_norm", clip, "a number > 0, or null")
        require(self.max_steps is None or self.max_steps >= 0, "max_steps", self.max_steps, "≥ 0, or null")
        require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "a whole number ≥ 0")

    def steps(self, n_forget: int) -> int:
        """Optimizer steps that this makes of `n_forget` rows."""
        total = self.epochs * math.ceil(n_forget / self.batch_size)
        return total if self.max_steps is None else min(total, self.max_steps)

    def pace(self, step: int, total: int) -> float:
        """Factor of the learning rate in step 0 ≤ `step` < `total`: up to 1 in the warm-up's last step, then (linear)
        down to 1/(total − warm-up) in the last. No step has rate 0."""
        rising = round(self.warmup * total)
        if step < rising:
            return (step + 1) / rising
        return 1.0 if self.schedule == "constant" else (total - step) / (total - rising)


@dataclass(frozen=True)
class TrainingResult:
    steps: int
    stopped: bool
    """Whether `stop` ended it before the last epoch did."""
    records: list[Record]
    """One a step, also of the steps before a restart."""


def train(
    model: nn.Module,
    selection: Trained,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    forget: Sequence[Encoded],
    retain: Sequence[Encoded] = (),
    *,
    settings: Training,
    pad_id: int,
    alternatives: Sequence[Encoded] = (),
    seed: int = 0,
    on_step: Callable[[Record], None] | None = None,
    checkpoint: Path | None = None,
    stop: Callable[[int], bool] | None = None,
    label: str = "unlearning",
) -> TrainingResult:
    """Train `selection` (of `model`) in place.

    forget, retain: encoded rows; each forget row draws one retain row (`pairing_table`). Without retain rows, or where
    the objective has no retain side, the forget side alone is trained on: so a target is fine-tuned.
    alternatives: for objectives that read them (`answers`), each forget row with "I don't know" as the answer.
    on_step: receives each step's record, of the steps before a restart too: step and epoch (from 1), forget_loss and
    retain_loss (as trained on, sign included), lr, grad_norm (before clipping), clipped_fraction (Sophia, else None),
    tokens_per_s.
    checkpoint: a file, written every `settings.checkpoint_every` steps and taken up again if it is there; what the
    untouched model said (`needs_reference`) is kept beside it.
    stop: asked after each epoch, with the number of epochs done and the model in eval mode; True ends the training.
    In a process group each process does its share of each batch, and all end with the same weights.
    Raises UserError when a loss or the gradient is not finite; the last checkpoint stays.
    """
    total = settings.steps(len(forget))
    if total == 0:
        return TrainingResult(0, False, [])
    place = here()
    torch.manual_seed(seed + place.rank)
    plan = draw(len(forget), len(retain), settings, seed)[:total]
    sides = sides_of(objective, forget, retain, alternatives)
    file = Checkpoint(of_process(checkpoint, place), fingerprint(settings, objective, optimizer, seed, place, sides))
    sides = with_memory(model, objective, sides, plan, settings, pad_id, file)
    sum_over_shards(model)
    peak_rates = [float(group["lr"]) for group in optimizer.param_groups]
    records = restore(file, selection, optimizer, place)
    report = on_step or (lambda record: None)
    for earlier in records:
        report(earlier)

    stopped, warned = False, False
    with training_mode(model, settings.activation_checkpointing):
        for step in track(range(len(records), total), label, unit="step"):
            began = time.perf_counter()
            for group, rate in zip(optimizer.param_groups, peak_rates, strict=True):
                group["lr"] = rate * settings.pace(step, total)
            portion = (settings.micro_batch_tokens, pad_id, place)
            drawn = list(zip(sides, plan[step].indices, strict=False))
            if getattr(optimizer, "hessian_due", False):
                estimate_curvature(model, optimizer, drawn, *portion)
            losses = [backward(model, side, indices, *portion) for side, indices in drawn]
            sum_gradients(optimizer, place)
            record: Record = {
                "step": step + 1,
                "epoch": plan[step].epoch,
                "forget_loss": losses[0],
                "retain_loss": losses[1] if len(losses) > 1 else None,
                "lr": optimizer.param_groups[0]["lr"],
                "grad_norm": clip_norm(optimizer, settings.clip_norm, place),
            }
            check_finite(record, checkpoint)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            n_tokens = sum(len(row) for side, indices in drawn for row in side.flat(indices))
            record["clipped_fraction"] = getattr(optimizer, "clipped_fraction", None)
            record["tokens_per_s"] = round(n_tokens / (time.perf_counter() - began), 1)
            records.append(record)
            report(record)
            warned = warned or warn_runaway(model, objective, record)
            if stop and plan[step].ends_epoch and (stopped := ask(stop, model, plan[step].epoch)):
                break
            if settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0:
                save(file, selection, optimizer, records)
    return TrainingResult(len(records), stopped, records)


@dataclass(frozen=True)
class Step:
    """What one optimizer step reads."""

    epoch: int
    """From 1."""
    indices: tuple[list[int], list[int]]
    """Forget rows, and the retain rows drawn for them."""
    ends_epoch: bool


def draw(n_forget: int, n_retain: int, settings: Training, seed: int) -> list[Step]:
    """All steps of a training: a function of the seed and the numbers of rows alone."""
    size = settings.batch_size
    forget, retain = pairing_table(n_forget, max(1, n_retain), settings.epochs, seed)
    return [
        Step(e + 1, (forget[e, i : i + size].tolist(), retain[e, i : i + size].tolist()), i + size >= n_forget)
        for e in range(settings.epochs)
        for i in range(0, n_forget, size)
    ]


def sides_of(
    objective: Objective, forget: Sequence[Encoded], retain: Sequence[Encoded], alternatives: Sequence[Encoded]
) -> list[Side]:
    """The forget side with the answers that the objective reads; the retain side, where there are rows."""
    if objective.answers != "original" and len(alternatives) != len(forget):
        raise ValueError(f"{type(objective).__name__} needs an alternative for each of the {len(forget)} forget rows")
    columns = {"original": [forget], "alternative": [alternatives], "both": [forget, alternatives]}[objective.answers]
    sides = [Side(list(zip(*columns, strict=True)), objective.forget, objective.unit, 1.0)]
    if retain:
        rows = [(row,) for row in retain]
        sides.append(Side(rows, objective.retain, objective.retain_unit, objective.retain_weight))
    return sides


def with_memory(
    model: nn.Module,
    objective: Objective,
    sides: list[Side],
    plan: list[Step],
    settings: Training,
    pad_id: int,
    file: Checkpoint,
) -> list[Side]:
    """The sides, with what the untouched model said of their rows where the objective compares with that."""
    tokens = settings.micro_batch_tokens or 4096
    done = []
    for k, (name, side) in enumerate(zip(("forget", "retain"), sides, strict=False)):
        if name in objective.needs_reference:
            needed = {i for step in plan for i in step.indices[k]}
            beside = replace(file, path=file.path and file.path.with_suffix(f".{name}-reference{file.path.suffix}"))
            comparing = cast(Comparing, objective)
            memory = beside.kept(partial(recall, model, comparing, side, needed, tokens, pad_id))
            side = replace(side, memory=memory, head=untouched_head(model))
        done.append(side)
    return done


@contextmanager
def training_mode(model: nn.Module, activation_checkpointing: bool) -> Iterator[None]:
    """Dropout on, and activation checkpointing where asked for; both as before at the end."""
    before = model.training
    model.train()
    if activation_checkpointing:
        model.activation_checkpointing_enable()  # type: ignore[operator]
    try:
        yield
    finally:
        if activation_checkpointing:
            model.activation_checkpointing_disable()  # type: ignore[operator]
        model.train(before)


def ask(stop: Callable[[int], bool], model: nn.Module, epoch: int) -> bool:
    """Whether the criterion is met, measured in eval mode."""
    model.eval()
    try:
        return stop(epoch)
    finally:
        model.train()


def check_finite(record: Record, checkpoint: Path | None) -> None:
    forget, retain, norm = record["forget_loss"], record["retain_loss"], record["grad_norm"]
    if all(math.isfinite(x) for x in (forget or 0.0, retain or 0.0, norm or 0.0)):
        return
    kept = f"; the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else ""
    raise UserError(
        f"training step {record['step']}: not finite (forget loss {forget}, retain loss {retain}, gradient norm "
        f"{norm}); try a lower optimizer.lr, fewer training.epochs or precision.master=true{kept}"
    )


def warn_runaway(model: nn.Module, objective: Objective, record: Record) -> bool:
    """Say it when the forgotten tokens have become far less likely than under a uniform guess."""
    chance = math.log(model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
    runaway = objective.unit == "token" and (record["forget_loss"] or 0.0) < -2 * chance
    if runaway:
        log.warning(
            "step %d: forget loss %.1f is beyond twice the −%.1f of a uniform guess: the model is being destroyed "
            "rather than made to forget; try a lower optimizer.lr or fewer training.epochs",
            record["step"],
            record["forget_loss"],
            chance,
        )
    return runaway


def fingerprint(
    settings: Training,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    seed: int,
    place: Place,
    sides: list[Side],
) -> str:
    """Digest of what decides the trajectory."""
    what = (settings, objective, sorted(optimizer.defaults.items()), seed, place, [side.rows for side in sides])
    return hashlib.sha256(repr(what).encode()).hexdigest()


def of_process(path: Path | None, place: Place) -> Path | None:
    """Each process has a file of its own, with its shard."""
    return (
        path if path is None or place.world == 1 else path.with_suffix(f".{place.rank}-of-{place.world}{path.suffix}")
    )


def save(file: Checkpoint, selection: Trained, optimizer: torch.optim.Optimizer, records: list[Record]) -> None:
    file.save(
        {
            "selection": dict(selection.state_dict()),
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
            "records": records,
        }
    )


def restore(file: Checkpoint, selection: Trained, optimizer: torch.optim.Optimizer, place: Place) -> list[Record]:
    """Put everything back as it was; the records so far (none: there was nothing to take up)."""
    state = file.load()
    steps = len(state["records"]) if state else 0
    if place.world > 1:
        everywhere: list[int | None] = [None] * place.world
        dist.all_gather_object(everywhere, steps)
        if len(set(everywhere)) > 1:
            log.warning("checkpoints of the processes are of different steps (%s): starting anew", everywhere)
            return []
    if state is None:
        return []
    selection.load_state_dict(state["selection"])
    optimizer.load_state_dict(state["optimizer"])
    set_random_state(state["random"])
    return list(state["records"])
