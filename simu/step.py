"""One optimizer step: gradients of both terms, or a zeroth-order optimizer's losses; clip, update, record."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from simu.gradients import (
    ProcessGroup,
    Term,
    backward,
    clip_norm,
    estimate_curvature,
    sum_gradients,
    trained_parameters,
)
from simu.optim.perturb import NoPerturbation, Smoothing
from simu.optim.zeroth import BuildHybrid, BuildZerothOrder, ZerothOrder
from simu.slots import Optimizer, Perturbation
from simu.store.checkpoint import random_state, set_random_state
from simu.types import UserError

Record = dict[str, float | int | None]
Drawn = Mapping[str, tuple[Term, Sequence[int]]]
"""Of a step: each term with the indices of its rows."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step reads."""

    number: int
    """From 1, as is the epoch."""
    epoch: int
    indices: Mapping[str, list[int]]
    """"forget": rows of the forget set; "retain": the rows drawn for them."""
    ends_epoch: bool


@dataclass(frozen=True)
class StepTaker:
    """What all steps of a training share."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batching: tuple[int | None, int, ProcessGroup]
    """Tokens a pass, the padding's id, the processes."""
    clip: float | None
    """Largest norm of the gradient."""
    perturbation: Perturbation | None
    seed: int
    checkpoint: Path | None
    """For messages."""

    def take(self, step: Step, terms: Mapping[str, Term]) -> Record:
        """One optimizer step; its record. Raises UserError, before the weights move, where it is not finite."""
        began, optimizer = time.perf_counter(), self.optimizer
        drawn = {name: (term, step.indices[name]) for name, term in terms.items()}
        zeroth = isinstance(optimizer, ZerothOrder) and optimizer.zeroth_due
        rate = optimizer.param_groups[0]["lr"]
        losses, norm = self.two_points(drawn) if zeroth else self.gradients(drawn, step)
        record: Record = {
            "step": step.number,
            "epoch": step.epoch,
            "forget_loss": losses["forget"],
            "retain_loss": losses.get("retain"),
            "lr": rate,
            "grad_norm": norm,
        }
        check_finite(record, self.checkpoint)
        if not zeroth:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        n_tokens = sum(len(row) for term, indices in drawn.values() for row in term.flat(indices))
        record["clipped_fraction"] = getattr(optimizer, "clipped_fraction", None)
        record["tokens_per_s"] = round(n_tokens / (time.perf_counter() - began), 1)
        return record

    def gradients(self, drawn: Drawn, step: Step) -> tuple[dict[str, float], float]:
        """Losses of the terms, and the norm of the summed and clipped gradient before it was clipped."""
        optimizer, (*_, group) = self.optimizer, self.batching
        if getattr(optimizer, "hessian_due", False):
            estimate_curvature(self.model, optimizer, list(drawn.values()), *self.batching)
        perturbation = self.perturbation or NoPerturbation()
        at_once = group.world_size == 1 or isinstance(perturbation, NoPerturbation)  # summed over processes at the end

        def add(name: str, factor: float = 1.0) -> float:
            do = self.add_own if at_once else self.add_summed
            return do(*drawn[name], factor)

        trained = trained_parameters(optimizer)
        losses = {"forget": perturbation(partial(add, "forget"), trained, (self.seed, step.number))}
        if "retain" in drawn:
            losses["retain"] = add("retain")
        if at_once:
            sum_gradients(optimizer, group)
        return losses, clip_norm(optimizer, self.clip, group)

    def add_own(self, term: Term, indices: Sequence[int], factor: float) -> float:
        """Adds the gradient of this process's rows (a sharded model: of all)."""
        return backward(self.model, term, indices, *self.batching, factor)

    def add_summed(self, term: Term, indices: Sequence[int], factor: float) -> float:
        """Adds the gradient of all processes' rows."""
        trained = trained_parameters(self.optimizer)
        before = [p.grad for p in trained]
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward(self.model, term, indices, *self.batching, factor)
        sum_gradients(self.optimizer, self.batching[-1])
        for p, gradient in zip(trained, before, strict=True):
            if gradient is not None:
                p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        return loss

    def two_points(self, drawn: Drawn) -> tuple[dict[str, float], float]:
        """A zeroth-order step: the terms' losses, means over the points asked, and the norm of its estimate."""
        asked: dict[str, list[float]] = {name: [] for name in drawn}
        state = random_state()

        def objective() -> float:
            set_random_state(state)  # the same dropout at every point
            for name, (term, indices) in drawn.items():
                asked[name].append(backward(self.model, term, indices, *self.batching, factor=0.0))
            total = sum(term.weight * asked[name][-1] for name, (term, _) in drawn.items())
            if not math.isfinite(total):
                raise UserError(f"zeroth-order step: a loss of {total}; try a lower optimizer.lr or optimizer.mu")
            return total

        assert isinstance(self.optimizer, ZerothOrder)
        self.optimizer.step(objective)
        return {name: sum(values) / len(values) for name, values in asked.items()}, self.optimizer.norm


def check_update(optimizer: Optimizer, perturbation: Perturbation, sharded: bool) -> None:
    """Before any stage: raises UserError for an optimizer and a perturbation that do not go together, or not here."""
    plain = isinstance(perturbation, NoPerturbation)
    zeroth = isinstance(optimizer, BuildZerothOrder | BuildHybrid)
    if zeroth and not plain:
        name = type(perturbation).__name__.lower()
        raise UserError(f"perturbation={name}: a zeroth-order optimizer takes no gradient; allowed is none")
    if sharded and (zeroth or isinstance(perturbation, Smoothing)):
        what = "perturbation=smoothing" if not zeroth else "optimizer=zo or hybrid"
        raise UserError(f"{what}: a shard cannot draw its part of a direction; allowed is a model that is not sharded")


def check_finite(record: Record, checkpoint: Path | None) -> None:
    forget, retain, norm = record["forget_loss"], record["retain_loss"], record["grad_norm"]
    if all(math.isfinite(x) for x in (forget or 0.0, retain or 0.0, norm or 0.0)):
        return
    kept = f"; the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else ""
    raise UserError(
        f"training step {record['step']}: not finite (forget loss {forget}, retain loss {retain}, gradient norm "
        f"{norm}); try a lower optimizer.lr, fewer training.epochs or precision.master=true{kept}"
    )
