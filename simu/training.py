"""One loop for fine-tuning a target and for unlearning: pairs, two backward passes, clip, step, log, checkpoint.

A run of it is a function of the model, the rows, the settings and the seed alone: killed at any step and started again
with the same checkpoint path, it ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch import nn

from simu.data.batching import Encoded, pairing_table
from simu.fields import KNOB, Count, Number, Positive, Share, between, component, knobs, narrow
from simu.gradients import ProcessGroup, Term, next_terms, process_group, remember, sum_over_shards
from simu.losses.alternatives import alternatives_each
from simu.models.reference import Remembers, untouched_head
from simu.optim.zeroth import ZerothOrder
from simu.progress import track
from simu.slots import Objective, Perturbation
from simu.step import Record, Step, StepTaker
from simu.stop import ask, asked, held
from simu.store.checkpoint import Checkpoint, random_state, set_random_state

log = logging.getLogger(__name__)


class Trained(Protocol):
    """What trains: a `simu.selection.core.Selection`, or a whole model."""

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@component
class Training:
    """How long, in what batches and at what rate."""

    epochs: Annotated[int, between(0, 100_000)]
    """Passes over the forget rows; 0 trains nothing."""
    batch_size: Count
    """Forget rows a step, over all devices; each draws one retain row."""
    micro_batch_tokens: Count | None = 1024
    """Tokens, with padding, a forward pass (one row at least); the gradient of the rest of the step is accumulated,
    exactly but for rounding. Rows of like length share a pass. None: the whole batch."""
    warmup: Share = 0.1
    """Fraction of the steps in which the learning rate rises linearly to its value."""
    schedule: Literal["linear", "constant"] = "linear"
    """What follows the warm-up: a linear fall to 0 at the end, or nothing."""
    clip_norm: Positive | None = 1.0
    """Largest global norm of the trained parameters' gradient; None: as it comes."""
    max_steps: Number | None = None
    """Stop after so many optimizer steps; the schedule then spans these."""
    checkpoint_every: Annotated[Number, KNOB] = 50
    """Optimizer steps between checkpoints; 0: none."""
    activation_checkpointing: Annotated[bool, KNOB] = False
    """Recompute a block's activations in backward: about a third slower, far less memory, the same bytes."""

    def steps(self, n_forget: int) -> int:
        """Optimizer steps that this makes of `n_forget` rows."""
        total = self.epochs * math.ceil(n_forget / self.batch_size)
        return total if self.max_steps is None else min(total, self.max_steps)

    def rate_factor(self, step: int, total: int) -> float:
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
    warnings: list[str]
    """What a reader of the result must know, one line each."""


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
    fingerprint: str = "",
    stop: Callable[[int], bool] | None = None,
    label: str = "unlearning",
    perturbation: Perturbation | None = None,
) -> TrainingResult:
    """Train `selection` (of `model`) in place.

    forget, retain: encoded rows; each forget row draws one retain row (`pairing_table`). Without retain rows, or with a
    retain loss that reads none, the forget term alone is trained on: so is a target fine-tuned (`objective.teach`).
    alternatives: for forget losses that read them (`answers`), each forget row with another answer, "I don't know" say;
    where they are k times as many, those of epoch e are the e-th of the k parts, in turn.
    on_step: receives each step's record, of the steps before a restart too: step and epoch (from 1), forget_loss and
    retain_loss (unweighted, sign included), lr, grad_norm (before clipping), clipped_fraction (Sophia, else None),
    tokens_per_s; λ as retain_weight where the objective moves it.
    checkpoint: a file, written every `settings.checkpoint_every` steps and after the step in which the process is told
    to stop (`simu.stop`), and taken up again if it is there; what the untouched model said (`needs_reference`) is kept
    beside it.
    fingerprint: what the caller knows the result to depend on beside the arguments here (the model, the mask, the
    code); a checkpoint of another one is not taken up.
    stop: asked after each epoch (again where work is taken up at its end), with the number of epochs done and the model
    in eval mode; True ends the training.
    In a process group each process takes its part of each batch, and all end with the same weights.
    perturbation: where the forget gradient is taken; None: at the weights.
    Raises UserError when a loss or the gradient is not finite; the last checkpoint stays.
    """
    total = settings.steps(len(forget))
    if total == 0:
        return TrainingResult(0, False, [], [])
    group = process_group()
    torch.manual_seed(narrow(seed) + group.rank)
    parts = alternatives_each(objective, len(forget), len(alternatives))
    plan = draw(len(forget), len(retain), settings, seed, parts)[:total]
    terms = terms_of(objective, forget, retain, alternatives)
    digest = trajectory_digest(settings, objective, (optimizer, perturbation), seed, group, terms, fingerprint)
    file = Checkpoint(of_process(checkpoint, group), digest)
    terms = with_memory(model, terms, plan, settings, pad_id, file)
    sum_over_shards(model)
    if isinstance(optimizer, ZerothOrder):
        optimizer.prepare(seed, total, settings.clip_norm)
    peak_rates = [float(param_group["lr"]) for param_group in optimizer.param_groups]
    records = restore(file, selection, optimizer, group)
    report = on_step or (lambda record: None)
    for earlier in records:
        report(earlier)
        terms = next_terms(terms, objective, earlier)

    def met(done: int) -> bool:
        return stop is not None and done > 0 and plan[done - 1].ends_epoch and is_met(stop, model, plan[done - 1].epoch)

    batching = (settings.micro_batch_tokens, pad_id, group)
    taken = StepTaker(model, optimizer, batching, settings.clip_norm, perturbation, seed, checkpoint)
    warned = False
    with training_mode(model, settings.activation_checkpointing):
        stopped = met(len(records))
        for step in track(range(len(records), total), label, unit="step"):
            if stopped:
                break
            for param_group, rate in zip(optimizer.param_groups, peak_rates, strict=True):
                param_group["lr"] = rate * settings.rate_factor(step, total)
            with held():
                record = taken.take(plan[step], terms)
                terms = next_terms(terms, objective, record)
                records.append(record)
                report(record)
                if not warned and (line := runaway(model, objective, record)):
                    warned = True
                    log.warning("%s", line)
                told = told_to_stop(group)
                if settings.checkpoint_every and (told or (step + 1) % settings.checkpoint_every == 0):
                    save(file, selection, optimizer, records)
            stopped = met(step + 1)
    lines = (runaway(model, objective, record) for record in records)
    return TrainingResult(len(records), stopped, records, [line for line in lines if line][:1])


def told_to_stop(group: ProcessGroup) -> bool:
    """Whether a signal has come, to any process of the group: then all of them stop after the same step."""
    if group.world_size == 1:
        return bool(asked())
    signals = [0] * group.world_size
    dist.all_gather_object(signals, asked())
    ask(max(signals))
    return any(signals)


def draw(n_forget: int, n_retain: int, settings: Training, seed: int, parts: int = 0) -> list[Step]:
    """All steps of a training: a function of the seed and the numbers of rows alone. `parts`: of the alternatives, each
    with the forget rows once more."""
    size = settings.batch_size
    forget, retain = pairing_table(n_forget, max(1, n_retain), settings.epochs, seed)
    forget += n_forget * (torch.arange(settings.epochs) % max(1, parts))[:, None]
    starts = [(epoch, i) for epoch in range(settings.epochs) for i in range(0, n_forget, size)]
    return [
        Step(
            number,
            epoch + 1,
            {"forget": forget[epoch, i : i + size].tolist(), "retain": retain[epoch, i : i + size].tolist()},
            ends_epoch=i + size >= n_forget,
        )
        for number, (epoch, i) in enumerate(starts, 1)
    ]


def terms_of(
    objective: Objective, forget: Sequence[Encoded], retain: Sequence[Encoded], alternatives: Sequence[Encoded]
) -> dict[str, Term]:
    """ "forget", with the answers that its loss reads; "retain", where there are rows and its loss reads them."""
    answers = objective.forget.answers
    again = [*forget] * alternatives_each(objective, len(forget), len(alternatives))
    columns = {"original": [forget], "alternative": [alternatives], "both": [again, alternatives]}[answers]
    terms = {"forget": Term(list(zip(*columns, strict=True)), objective.forget, objective.forget_weight)}
    if retain and objective.retain.reads_rows:
        terms["retain"] = Term([(row,) for row in retain], objective.retain, objective.retain_weight)
    return terms


def with_memory(
    model: nn.Module, terms: Mapping[str, Term], plan: list[Step], settings: Training, pad_id: int, file: Checkpoint
) -> dict[str, Term]:
    """The terms, with what the untouched model said of their rows where the loss compares with that."""
    tokens = settings.micro_batch_tokens or 4096
    done = dict(terms)
    for name, term in terms.items():
        if term.loss.needs_reference:
            needed = {i for step in plan for i in step.indices[name]}
            beside = replace(file, path=file.path and file.path.with_suffix(f".{name}-reference{file.path.suffix}"))
            loss = cast(Remembers, term.loss)
            memory = beside.kept(partial(remember, model, loss, term, needed, tokens, pad_id))
            done[name] = replace(term, memory=memory, head=untouched_head(model))
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


def is_met(stop: Callable[[int], bool], model: nn.Module, epoch: int) -> bool:
    """Whether the criterion is met, measured in eval mode."""
    model.eval()
    try:
        return stop(epoch)
    finally:
        model.train()


def runaway(model: nn.Module, objective: Objective, record: Record) -> str:
    """A line where the forgotten tokens have become far less likely than under a uniform guess; else ''."""
    chance = math.log(model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
    loss = record["forget_loss"] or 0.0
    if objective.forget.unit != "token" or loss >= -2 * chance:
        return ""
    return (
        f"step {record['step']}: forget loss {loss:.1f} is beyond twice the −{chance:.1f} of a uniform guess: the "
        "model is being destroyed rather than made to forget; try a lower optimizer.lr or fewer training.epochs"
    )


def trajectory_digest(
    settings: Training,
    objective: Objective,
    update: tuple[torch.optim.Optimizer, Perturbation | None],
    seed: int,
    group: ProcessGroup,
    terms: Mapping[str, Term],
    fingerprint: str,
) -> str:
    """Digest of what decides the trajectory: of what the arguments of `train` say, and of the caller's own."""
    decisive = {name: value for name, value in vars(settings).items() if name not in knobs(Training)}
    rows = {name: term.rows for name, term in terms.items()}
    optimizer, perturbation = update
    how = (sorted(optimizer.defaults.items()), perturbation)
    what = (decisive, objective, how, seed, group, rows, fingerprint)
    return hashlib.sha256(repr(what).encode()).hexdigest()


def of_process(path: Path | None, group: ProcessGroup) -> Path | None:
    """Each process has a file of its own, with its shard."""
    if path is None or group.world_size == 1:
        return path
    return path.with_suffix(f".{group.rank}-of-{group.world_size}{path.suffix}")


def save(file: Checkpoint, selection: Trained, optimizer: torch.optim.Optimizer, records: list[Record]) -> None:
    file.save(
        {
            "selection": dict(selection.state_dict()),
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
            "records": records,
        }
    )


def restore(
    file: Checkpoint, selection: Trained, optimizer: torch.optim.Optimizer, group: ProcessGroup
) -> list[Record]:
    """Put everything back as it was; the records so far (none: there was nothing to take up)."""
    state = file.load()
    steps = len(state["records"]) if state else 0
    if group.world_size > 1:
        everywhere: list[int | None] = [None] * group.world_size
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
