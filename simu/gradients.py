"""The gradient of one training step, exactly: over micro-batches, over both terms, over processes.

    ∇ Σ_terms weight · (Σ over the step's rows of the term's loss) / (the step's units of that term)

The divisor is known from the rows before any forward, so that it does not matter how they are cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from simu.data.batching import Encoded, collate, length_buckets
from simu.models.forward import device_of, labelled_logits
from simu.models.reference import Reference, Remembers
from simu.optim.norms import global_norm
from simu.optim.sampled import sampled_nll
from simu.progress import track
from simu.slots import LossTerm, MovesRetainWeight, Objective


@dataclass(frozen=True)
class ProcessGroup:
    """Which of how many processes this is."""

    rank: int = 0
    world_size: int = 1


def process_group() -> ProcessGroup:
    """The one that a launcher has set up, or this process alone."""
    return ProcessGroup(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ProcessGroup()


@dataclass(frozen=True)
class Term:
    """Of the objective, forget or retain: its rows, and what is lowered on them."""

    rows: Sequence[tuple[Encoded, ...]]
    """What an index stands for: one row, or an answer and its alternative."""
    loss: LossTerm
    weight: float
    memory: Mapping[int, tuple[Tensor, ...]] | None = None
    """What the untouched model said of each row of an index, on the CPU; None where the loss does not ask."""
    head: nn.Module | None = None
    """The untouched output head, where there is a memory."""

    def micro_batches(self, indices: Sequence[int], tokens: int | None, group: ProcessGroup) -> list[list[int]]:
        """This process's: rows of like length together, at most `tokens` with padding (None: no limit).

        Every process gets as many, as all must take part in each pass of a sharded model: the last may be empty.
        """
        width = {i: len(self.rows[i]) * max(len(r) for r in self.rows[i]) for i in indices}
        order = sorted(indices, key=lambda i: -width[i])
        everywhere = [buckets(order[rank :: group.world_size], width, tokens) for rank in range(group.world_size)]
        own = everywhere[group.rank]
        return own + [[]] * (max(map(len, everywhere)) - len(own))

    def flat(self, indices: Sequence[int]) -> list[Encoded]:
        """The rows of a batch: each index's first, then each index's alternative."""
        return [self.rows[i][k] for k in range(len(self.rows[0])) for i in indices]

    def units(self, indices: Sequence[int]) -> int:
        """What the mean over these rows divides by."""
        if self.loss.unit == "row":
            return len(indices)
        first = self.loss.unit == "later_token"
        return max(1, sum(max(0, n_scored(r) - first) for r in self.flat(indices)))

    def reference(self, indices: Sequence[int], device: torch.device) -> Reference | None:
        if self.memory is None or self.head is None:
            return None
        values = [self.memory[i][k] for k in range(len(self.rows[0])) for i in indices]
        return Reference(torch.cat(values).to(device), self.head)


def buckets(indices: Sequence[int], width: Mapping[int, int], tokens: int | None) -> list[list[int]]:
    """Indices whose rows share a pass, widest first."""
    widths = [width[i] for i in indices]
    return [[indices[k] for k in bucket] for bucket in length_buckets(widths, tokens or sum(widths) * len(widths))]


def n_scored(row: Encoded) -> int:
    """Labelled tokens that are predicted: the first token of a row is not."""
    return len(row.answer) - (not row.prompt)


@torch.no_grad()
def remember(
    model: nn.Module, loss: Remembers, term: Term, indices: set[int], tokens: int, pad_id: int
) -> dict[int, tuple[Tensor, ...]]:
    """What `model`, untouched as yet, says of the rows of `indices`: for `Term.memory`."""
    memory: dict[int, tuple[Tensor, ...]] = {}
    batches = term.micro_batches(sorted(indices), tokens, ProcessGroup())
    was_training = model.training
    model.eval()
    for chosen in track(batches, "reference model", unit="batch"):
        batch = collate(term.flat(chosen), pad_id, device_of(model))
        values = [v.cpu().clone() for v in loss.remember(model, batch)]
        for k, i in enumerate(chosen):
            memory[i] = tuple(values[k :: len(chosen)])
    model.train(was_training)
    return memory


def backward(
    model: nn.Module,
    term: Term,
    indices: Sequence[int],
    tokens: int | None,
    pad_id: int,
    group: ProcessGroup,
    factor: float = 1.0,
) -> float:
    """Add `factor` times the gradient of a term's weighted mean loss; that mean, unweighted. Factor 0: no graph.

    Each term has a backward of its own into the same gradients: the same sum as one backward of both, at half the
    activations.
    """
    device = device_of(model)
    weight = factor * term.weight
    scale = weight / term.units(indices)
    total = torch.zeros((), dtype=torch.float64)
    for chosen in term.micro_batches(indices, tokens, group):
        rows = chosen or indices[:1]  # an empty micro-batch still takes part, with nothing to add
        with torch.set_grad_enabled(weight != 0):
            loss = term.loss(model, collate(term.flat(rows), pad_id, device), term.reference(rows, device))
        if weight:
            (loss.total * (scale if chosen else 0.0)).backward()
        if chosen:
            total += loss.total.detach().double().cpu()
    if group.world_size > 1:
        total = total.to(device)
        dist.all_reduce(total)
    return float(total) / term.units(indices)


def next_terms(terms: dict[str, Term], objective: Objective, record: dict[str, Any]) -> dict[str, Term]:
    """The next step's terms: with another λ where the objective moves it; the step's `record` then shows its own.

    A function of the records alone, so that a restart finds the same λ again.
    """
    if not isinstance(objective, MovesRetainWeight) or record["retain_loss"] is None:
        return terms
    term = terms["retain"]
    record["retain_weight"] = term.weight
    weight = objective.next_retain_weight(term.weight, record["retain_loss"], record["epoch"])
    return {**terms, "retain": replace(term, weight=weight)}


def estimate_curvature(
    model: nn.Module,
    optimizer: Any,
    drawn: Sequence[tuple[Term, Sequence[int]]],
    tokens: int | None,
    pad_id: int,
    group: ProcessGroup,
) -> None:
    """Sophia-G: refresh H from labels that the model itself samples at all scored positions of the step's rows."""
    predictions = sum(n_scored(r) for term, indices in drawn for r in term.flat(indices))
    for term, indices in drawn:
        for chosen in term.micro_batches(indices, tokens, group):
            logits, _ = labelled_logits(model, collate(term.flat(chosen or indices[:1]), pad_id, device_of(model)))
            (sampled_nll(logits) * ((1 if chosen else 0) / predictions)).backward()
    sum_gradients(optimizer, group)
    optimizer.update_hessian(predictions=predictions)
    optimizer.zero_grad(set_to_none=True)


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def sum_over_shards(model: nn.Module) -> None:
    """Have a sharded model (FSDP2) sum its gradients over processes; by default it takes the mean."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def sum_gradients(optimizer: torch.optim.Optimizer, group: ProcessGroup) -> None:
    """Sum over processes what sharding has not summed already. A parameter that no process's rows reach has none."""
    for parameter in trained_parameters(optimizer) if group.world_size > 1 else ():
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
            dist.all_reduce(parameter.grad)


@torch.no_grad()
def clip_norm(optimizer: torch.optim.Optimizer, largest: float | None, group: ProcessGroup) -> float:
    """Scale all gradients so that their global norm is at most `largest`; the norm before."""
    whole = global_norm(trained_parameters(optimizer))
    if largest is not None and not whole <= largest:
        for gradient in (p.grad for p in trained_parameters(optimizer) if p.grad is not None):
            gradient.mul_(largest / float(whole + 1e-6))
    return float(whole)
