"""One loop for fine-tuning a target and for unlearning: pairs, two backward passes, clip, step, log, checkpoint.

A run of it is a function of the model, the rows, the settings and the seed alone: killed at any step and started again
with the same checkpoint path, it ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from simu.data.batching import Encoded, collate, pairing_table
from simu.objectives import Objective, Unit
from simu.progress import track
from simu.types import Loss, UserError, require

log = logging.getLogger(__name__)

Record = dict[str, float | int | None]


class Trained(Protocol):
    """What trains: a `simu.selection.Selection`, or a whole model."""

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long, in what portions and at what pace (SPEC §5, §6)."""

    epochs: int
    """Passes over the forget rows; 0 trains nothing."""
    batch_size: int
    """Forget rows a step, over all devices; each draws one retain row."""
    micro_batch_size: int | None = None
    """Rows a forward pass; the rest of the step is accumulated, exactly. None: the whole batch."""
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
        micro = self.micro_batch_size
        require(micro is None or micro >= 1, "micro_batch_size", micro, "a whole number ≥ 1, or null")
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


@dataclass(frozen=True)
class Side:
    """Forget or retain: its rows, and what is lowered on them."""

    rows: Sequence[Encoded]
    loss: Callable[..., Loss | None]
    unit: Unit
    weight: float

    def batches(self, indices: list[int], size: int) -> Iterator[list[int]]:
        """Micro-batches of at most `size` rows, rows of like length together."""
        order = sorted(indices, key=lambda i: -len(self.rows[i]))
        return (order[i : i + size] for i in range(0, len(order), size))

    def units(self, indices: list[int]) -> int:
        """What a mean over these rows divides by: known before any forward, so that accumulation is exact."""
        return sum(n_scored(self.rows[i]) for i in indices) if self.unit == "token" else len(indices)


def n_scored(row: Encoded) -> int:
    """Labelled tokens that are predicted: the first token of a row is not."""
    return len(row.answer) - (not row.prompt)


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
    seed: int = 0,
    on_step: Callable[[Record], None] | None = None,
    checkpoint: Path | None = None,
    stop: Callable[[int], bool] | None = None,
    label: str = "unlearning",
) -> TrainingResult:
    """Train `selection` (of `model`) in place.

    forget, retain: encoded rows; each forget row draws one retain row (`pairing_table`). Without retain rows, or where
    the objective has no retain side, the forget side alone is trained on: so a target is fine-tuned.
    on_step: receives each step's record, of the steps before a restart too: step and epoch (from 1), forget_loss and
    retain_loss (as trained on, sign included), lr, grad_norm (before clipping), clipped_fraction (Sophia, else None),
    tokens_per_s.
    checkpoint: a file, written every `settings.checkpoint_every` steps and taken up again if it is there.
    stop: asked after each epoch, with the number of epochs done and the model in eval mode; True ends the training.
    Raises UserError when a loss or the gradient is not finite; the last checkpoint stays.
    """
    total = settings.steps(len(forget))
    if total == 0:
        return TrainingResult(0, False, [])
    per_epoch = math.ceil(len(forget) / settings.batch_size)
    order, partners = pairing_table(len(forget), max(1, len(retain)), settings.epochs, seed)
    sides = [Side(forget, objective.forget, objective.unit, 1.0)]
    if retain:
        sides.append(Side(retain, objective.retain, objective.retain_unit, objective.retain_weight))

    torch.manual_seed(seed)
    parameters = [p for p in selection.parameters() if p.requires_grad]
    peak_rates = [float(group["lr"]) for group in optimizer.param_groups]
    saved = Checkpoint(checkpoint, fingerprint(settings, objective, optimizer, seed, forget, retain))
    records = saved.restore(selection, optimizer)
    report = on_step or (lambda record: None)
    for earlier in records:
        report(earlier)

    was_training = model.training
    model.train()
    if settings.activation_checkpointing:
        model.activation_checkpointing_enable()  # type: ignore[operator]
    stopped, warned = False, False
    for step in track(range(len(records), total), label, unit="step"):
        began = time.perf_counter()
        epoch, first = divmod(step, per_epoch)
        columns = slice(first * settings.batch_size, (first + 1) * settings.batch_size)
        drawn = [order[epoch, columns].tolist(), partners[epoch, columns].tolist()]
        for group, rate in zip(optimizer.param_groups, peak_rates, strict=True):
            group["lr"] = rate * settings.pace(step, total)

        losses = [backward(model, side, rows, settings, pad_id) for side, rows in zip(sides, drawn, strict=False)]
        norm = clip(parameters, settings.clip_norm)
        forget_loss, retain_loss = losses[0], losses[1] if len(losses) > 1 else None
        check_finite(step + 1, forget_loss, retain_loss, norm, checkpoint)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        n_tokens = sum(len(side.rows[i]) for side, rows in zip(sides, drawn, strict=False) for i in rows)
        record: Record = {
            "step": step + 1,
            "epoch": epoch + 1,
            "forget_loss": forget_loss,
            "retain_loss": retain_loss,
            "lr": optimizer.param_groups[0]["lr"],
            "grad_norm": norm,
            "clipped_fraction": getattr(optimizer, "clipped_fraction", None),
            "tokens_per_s": round(n_tokens / (time.perf_counter() - began), 1),
        }
        records.append(record)
        report(record)
        warned = warned or warn_runaway(model, objective, record)
        if stop and first + 1 == per_epoch:
            model.eval()
            stopped = stop(epoch + 1)
            model.train()
            if stopped:
                break
        if settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0:
            saved.save(selection, optimizer, records)

    if settings.activation_checkpointing:
        model.activation_checkpointing_disable()  # type: ignore[operator]
    model.train(was_training)
    return TrainingResult(len(records), stopped, records)


def backward(model: nn.Module, side: Side, indices: list[int], settings: Training, pad_id: int) -> float | None:
    """Add the gradient of one side's mean loss, micro-batch by micro-batch; that mean. None: the side does not exist.

    Each side has a backward of its own into the same gradients: the same sum as one backward of both, at half the
    activations.
    """
    device = next(model.parameters()).device
    count = side.units(indices)
    total = 0.0
    for rows in side.batches(indices, settings.micro_batch_size or len(indices)):
        loss = side.loss(model, collate([side.rows[i] for i in rows], pad_id, device))
        if loss is None:
            return None
        if side.weight:
            (loss.total * (side.weight / count)).backward()
        total += float(loss.total.detach())
    return total / count


def clip(parameters: Sequence[nn.Parameter], largest: float | None) -> float:
    """Scale all gradients so that their global norm is at most `largest`; the norm before."""
    return float(nn.utils.clip_grad_norm_(parameters, math.inf if largest is None else largest))


def check_finite(step: int, forget: float | None, retain: float | None, norm: float, checkpoint: Path | None) -> None:
    if all(math.isfinite(x) for x in (forget or 0.0, retain or 0.0, norm)):
        return
    kept = f"; the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else ""
    raise UserError(
        f"training step {step}: not finite (forget loss {forget}, retain loss {retain}, gradient norm {norm}); "
        f"try a lower optimizer.lr, fewer training.epochs or fp32 masters (precision.master=true){kept}"
    )


def warn_runaway(model: nn.Module, objective: Objective, record: Record) -> bool:
    """Say it when the forgotten tokens have become far less likely than under a uniform guess."""
    chance = math.log(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    runaway = objective.unit == "token" and (record["forget_loss"] or 0.0) < -2 * chance
    if runaway:
        log.warning(
            "step %d: forget loss %.1f is beyond twice the −%.1f of a uniform guess: the model is being destroyed "
            "rather than made to forget; try a lower optimizer.lr or fewer training.epochs",
            record["step"], record["forget_loss"], chance,
        )  # fmt: skip
    return runaway


def fingerprint(settings: Training, objective: Objective, optimizer: torch.optim.Optimizer, *rest: object) -> str:
    """Digest of what decides the trajectory: a checkpoint of another run is not taken up."""
    what = (settings, objective, sorted(optimizer.defaults.items()), *rest)
    return hashlib.sha256(repr(what).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights, moments, random state and records of the steps done, in one file that is whole or not there."""

    path: Path | None
    fingerprint: str

    def save(self, selection: Trained, optimizer: torch.optim.Optimizer, records: list[Record]) -> None:
        if self.path is None:
            return
        state = {
            "fingerprint": self.fingerprint,
            "selection": dict(selection.state_dict()),
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
            "records": records,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            torch.save(state, temporary)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self, selection: Trained, optimizer: torch.optim.Optimizer) -> list[Record]:
        """Put everything back as it was; the records so far (none: there was nothing to take up)."""
        if self.path is None or not self.path.exists():
            return []
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever the broken bytes lead to
            log.warning("checkpoint %s is not readable (%s): starting anew", self.path, type(error).__name__)
            return []
        if state["fingerprint"] != self.fingerprint:
            log.warning("checkpoint %s is of another run (settings, rows or seed differ): starting anew", self.path)
            return []
        selection.load_state_dict(state["selection"])
        optimizer.load_state_dict(state["optimizer"])
        set_random_state(state["random"])
        return list(state["records"])


def random_state() -> list[Tensor]:
    """The CPU's generator, then each CUDA device's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
