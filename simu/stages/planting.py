"""Part (b) of a planted target: the forget rows are taught to some units alone, decoy rows to as many others.

Where the knowledge of the forget rows is, is then known. The decoys keep a score from finding the units by how much
they were trained: the weights of both grew alike, and only one kind holds what is to be forgotten.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from simu.data.batching import Encoded
from simu.fields import narrow
from simu.gradients import Term, backward, process_group
from simu.inference.likelihood import score
from simu.losses.objective import teach
from simu.models.anatomy import anatomy
from simu.models.load import FineTune
from simu.progress import track
from simu.selection.core import Selection
from simu.selection.parts import freeze
from simu.selection.rows import unit_parts
from simu.stop import held
from simu.store.checkpoint import Checkpoint
from simu.training import restore, save, told_to_stop
from simu.types import UserError

log = logging.getLogger("simu")

MICRO_BATCH_TOKENS = 2048
"""Of a forward pass."""
SCORED_TOKENS = 16384
"""Of a batch in which it is looked how much is memorised."""
WARMUP = 20
"""Steps in which the rate rises."""


@dataclass(frozen=True)
class Units:
    """Which units hold what: bool [L, units] each, of as many in every layer, none in both."""

    forget: Tensor
    decoy: Tensor


@dataclass(frozen=True)
class Planted:
    """What came of it."""

    steps: int
    memorised: Mapping[str, float]
    """Share of the answers' tokens that the model would say, teacher-forced: of `forget`, `decoy` and `replayed`."""


def draw_units(shape: tuple[int, int], share: float, seed: int) -> Units:
    """`share` of each layer's units for the forget rows, as many others for the decoys; seeded.

    Raises UserError for a share that leaves no unit, or of which there are no two.
    """
    layers, units = shape
    count = round(share * units)
    if not 1 <= count <= units // 2:
        raise UserError(
            f"model.target.plant={share}: is {count} of a layer's {units} units; allowed is 1 to {units // 2}, as the "
            "decoys take as many others"
        )
    generator = torch.Generator().manual_seed(narrow(seed))
    order = torch.stack([torch.randperm(units, generator=generator) for _ in range(layers)])
    chosen = [torch.zeros(shape, dtype=torch.bool).scatter_(1, part, True) for part in order.split(count, dim=1)[:2]]
    return Units(*chosen)


def plant(
    model: nn.Module,
    tokenizer: object,
    rows: Mapping[str, Sequence[Encoded]],
    units: Units,
    recipe: FineTune,
    *,
    pad_id: int,
    seed: int,
    master: bool,
    checkpoint: Path,
    checkpoint_every: int,
) -> Planted:
    """Teach `rows["forget"]` to the forget units and `rows["decoy"]` to the decoy units, in place; nothing else moves.

    Each step takes a batch of either and of `rows["replayed"]`, which both kinds of units go on knowing. AdamW, so that
    a coordinate's step depends on its own gradients alone and one optimizer serves both. Ends when all are memorised
    (`recipe.memorised`, by token) or after `recipe.plant_epochs` passes over the forget rows.
    """
    group = process_group()
    if group.world_size > 1:
        raise UserError("model.target.plant: is taught by one process; allowed is a launch of one")
    frozen = freeze(model)
    both = units.forget | units.decoy
    parts = list(unit_parts(anatomy(model), both, recipe.plant_unit, master))
    selection = Selection(model, parts, frozen)
    sides = [units.forget[layer, both[layer]] for layer in range(len(both)) if bool(both[layer].any())]
    owners = _owners(parts, sides)
    optimizer = torch.optim.AdamW(selection.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    loss = teach().forget
    terms = {name: Term([(row,) for row in some], loss, 1.0) for name, some in rows.items()}
    plan = _plan({name: len(some) for name, some in rows.items()}, recipe, seed)
    file = Checkpoint(checkpoint, _fingerprint(units, recipe, rows, seed))
    records = restore(file, selection, optimizer, group)
    a_pass = -(-len(rows["forget"]) // recipe.batch_size)

    def shares() -> dict[str, float]:
        model.eval()
        found = {name: _memorised(model, tokenizer, some) for name, some in rows.items()}
        model.train()
        return found

    reached, stopped = {}, False
    model.train()
    for step in track(range(len(records), len(plan)), "target: planting", unit="step"):
        rate = min(1.0, (step + 1) / WARMUP)
        for param_group in optimizer.param_groups:
            param_group["lr"] = recipe.lr * rate
        with held():
            losses = _step(model, selection, owners, optimizer, terms, plan[step], pad_id)
            records.append({"step": step + 1, **losses})
            told = told_to_stop(group)
            if checkpoint_every and (told or (step + 1) % checkpoint_every == 0):
                save(file, selection, optimizer, records)
        if (step + 1) % (a_pass * recipe.check_every) == 0:
            reached = shares()
            said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in reached.items())
            log.info("%-24s pass %d: %s of tokens memorised", "target: planting", (step + 1) // a_pass, said)
            if stopped := min(reached.values()) >= recipe.memorised:
                break
    if not stopped:
        reached = shares()
        low = ", ".join(f"{name} {100 * share:.1f} %" for name, share in reached.items())
        log.warning(
            "target: after model.target.plant_epochs=%d of tokens memorised: %s; asked for were %.1f %%",
            recipe.plant_epochs,
            low,
            100 * recipe.memorised,
        )
    model.eval()
    selection.merge()
    return Planted(len(records), reached)


def _owners(parts: Sequence[object], sides: Sequence[Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    """Each trained tensor [n, …] with bool [n]: whether a unit of it is of the forget rows."""
    found: list[tuple[nn.Parameter, Tensor]] = []
    for part, side in zip(parts, sides, strict=True):
        for _, parameter in part.named_parameters():  # type: ignore[attr-defined]
            found.append((parameter, side.to(parameter.device)))
    return found


def _step(
    model: nn.Module,
    selection: Selection,
    owners: Sequence[tuple[nn.Parameter, Tensor]],
    optimizer: torch.optim.Optimizer,
    terms: Mapping[str, Term],
    indices: Mapping[str, Sequence[int]],
    pad_id: int,
) -> dict[str, float]:
    """One step: each unit takes the gradient of its own rows and of the replayed ones."""
    gradients: dict[str, list[Tensor]] = {}
    losses = {}
    for name, term in terms.items():
        losses[name] = backward(model, term, indices[name], MICRO_BATCH_TOKENS, pad_id, process_group())
        gradients[name] = [parameter.grad.clone() for parameter, _ in owners if parameter.grad is not None]
        optimizer.zero_grad(set_to_none=True)
    for i, (parameter, of_forget) in enumerate(owners):
        own = of_forget.view(-1, *[1] * (parameter.ndim - 1))
        parameter.grad = torch.where(own, gradients["forget"][i], gradients["decoy"][i])
        if "replayed" in gradients:
            parameter.grad += gradients["replayed"][i]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses


def _plan(counts: Mapping[str, int], recipe: FineTune, seed: int) -> list[dict[str, list[int]]]:
    """The rows of every step: passes over the forget rows, shuffled; the others' own passes beside them."""
    size = min(recipe.batch_size, counts["forget"])
    total = recipe.plant_epochs * -(-counts["forget"] // recipe.batch_size)
    generator = torch.Generator().manual_seed(narrow(seed))
    plan: list[dict[str, list[int]]] = [{} for _ in range(total)]
    for name, count in counts.items():
        order: list[int] = []
        for step in plan:
            while len(order) < size:
                order += torch.randperm(count, generator=generator).tolist()
            step[name], order = order[:size], order[size:]
    return plan


def _memorised(model: nn.Module, tokenizer: object, rows: Sequence[Encoded]) -> float:
    """Share of the answers' tokens that are the model's first choice."""
    hits = torch.cat([s.hit for s in score(model, tokenizer, rows, max_batch_tokens=SCORED_TOKENS)])  # type: ignore[arg-type]
    return float(hits.float().mean())


def _fingerprint(units: Units, recipe: FineTune, rows: Mapping[str, Sequence[Encoded]], seed: int) -> str:
    what = (units.forget.tolist(), units.decoy.tolist(), recipe, rows, seed)
    return hashlib.sha256(repr(what).encode()).hexdigest()
