"""Integrated gradients of every down-projection output channel, exactly (arXiv 2510.07822, Eq. 1-2).

    Att(l, k) = (1/m) Σ_j Σ_i β_{l,i}^k · ∂L_i(a_j) / ∂a_j^k          a_j = (j/m) · β_{l,i}

Sample i is one scored token; β_{l,i} is layer l's down-projection output where that token is predicted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from simu.attribution.engine.capture import Clean, Layout, Position, layout, precise, undisturbed
from simu.attribution.engine.cutting import Unit
from simu.attribution.engine.engine import Engine
from simu.attribution.engine.planning import Plan, plan
from simu.attribution.engine.tail import Objective
from simu.data.batches import Tokens
from simu.progress import track
from simu.store.partial import Partial, fingerprint
from simu.types import IGNORE, NeuronScores, UserError, require

log = logging.getLogger(__name__)

Layers = Literal["single", "all"]
Path_ = Literal["right", "left", "midpoint"]
Reduction = Literal["signed", "absolute"]
Batches = Iterable[Mapping[str, Tensor]]


def fractions(m: int, path: Path_) -> list[float]:
    """The points of the path: j/m, (j-1)/m or (j-1/2)/m for j = 1..m."""
    shift = {"right": 0.0, "left": 1.0, "midpoint": 0.5}[path]
    return [(j - shift) / m for j in range(1, m + 1)]


def neuron_attribution(
    model: nn.Module,
    batches: Batches,
    *,
    m: int = 5,
    objective: Objective = "log_prob",
    position: Position = "next_token",
    layers: Layers = "single",
    path: Path_ = "right",
    reduction: Reduction = "signed",
    tokens: Tokens = "answer",
    groups: int | None = None,
    max_memory: float | None = None,
    recompute: bool | None = None,
    checkpoint: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> NeuronScores:
    """Attribution of each neuron, summed over samples: [L, D] of `dtype`, or [G, L, D] with `groups`; on the CPU.

    model: a Hugging Face causal decoder (see `simu.models.anatomy`), any floating type; left as it was.
    batches: dicts of LongTensors [B, T], right-padded: input_ids, attention_mask, labels (-100 where not scored).
    m: path points. objective: L_i = log P(y), -log P(y) or P(y) of the scored token y.
    position: `next_token` replaces the vector where the token is predicted, for each sample by itself (exact);
        `sequence` scales it at all predicting positions of one teacher-forced pass.
    layers: one layer's vector at a time, or all layers' together.
    path: j/m (`right`), (j-1)/m (`left`), (j-1/2)/m (`midpoint`).
    reduction: samples are summed with their sign, or their absolute values are.
    tokens: `answer` scores the labels (answer and EOS); `template` also tokens that batch["template"] (LongTensor
        [B, T]) marks with 1.
    groups: number of groups G; batch["group"] (LongTensor [B]) then says which group a row belongs to. Costs nothing.
    max_memory, recompute: see `simu.attribution.plan`.
    checkpoint: folder for partial sums (made if need be). A killed call, started again with the same arguments, goes on
        from there and gives the same result; the caller removes it.

    Costs, for one row, about what its tokens cost and not their square: see docs/attribution.md. Scores are
    accumulated in float64 (products in float32 for models below float64).

    Raises UserError, in one line, for a model that cannot be treated exactly (by name, with the reason), rows padded on
    the left, a missing `template` or `group`, and a `max_memory` below what one row needs.
    """
    require(m >= 1, "m", m, "m ≥ 1")
    given = [dict(batch) for batch in batches]
    for batch in given:
        batch["labels"] = scored_labels(batch, tokens)
        if groups is not None:
            _require_groups(batch, groups)
    work = plan(
        model,
        given,
        m=m,
        position=position,
        layers=layers,
        path=path,
        max_memory=max_memory,
        recompute=recompute,
        groups=groups or 1,
    )
    log.info("%s", work)
    device = next(model.parameters()).device
    settings = {
        "m": m,
        "objective": objective,
        "position": position,
        "layers": layers,
        "path": path,
        "reduction": reduction,
        "groups": groups,
        "pieces": work.pieces,
    }
    digest = fingerprint(model, given, settings) if checkpoint is not None else ""
    points = fractions(m, path)
    with undisturbed(model), torch.enable_grad():
        engine = Engine(model, recompute=work.recompute, logits_rows=work.logits_rows)
        shape = (groups or 1, engine.parts.n_layers, engine.parts.d_model)
        kept = Partial(checkpoint, digest, shape, torch.float64)
        run = _Run(engine, work, kept, given, device, points, m, objective, position, layers == "all", reduction)
        for _ in track(run, "attribution", total=work.units, unit="pass"):
            pass
    return (kept.sums if groups is not None else kept.sums[0]).to(dtype)


def scored_labels(batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
    """LongTensor [B, T]: the token where it is scored, else -100. Raises UserError for left padding."""
    mask, labels = batch["attention_mask"].bool(), batch["labels"]
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise UserError("attention_mask: a row is padded on the left or has holes; allowed is padding on the right")
    if tokens == "template":
        if "template" not in batch:
            raise UserError(
                "attribution.tokens='template': a batch has no 'template' (LongTensor [B, T], 1 where a "
                "token belongs to the template); allowed without it is 'answer'"
            )
        labels = torch.where(batch["template"].bool(), batch["input_ids"], labels)
    return labels.masked_fill(~mask, IGNORE)


def count_samples(batches: Batches, tokens: Tokens = "answer") -> int:
    """Next-token samples |D|: scored tokens that something predicts (not a row's first)."""
    return sum(int((scored_labels(batch, tokens)[:, 1:] != IGNORE).sum()) for batch in batches)


def _require_groups(batch: Mapping[str, Tensor], groups: int) -> None:
    if "group" not in batch:
        raise UserError(
            "groups: a batch has no 'group' (LongTensor [B], the group of each row); allowed without it is groups=None"
        )
    low, high = int(batch["group"].min()), int(batch["group"].max())
    require(0 <= low <= high < groups, "batch['group']", (low, high), f"0 ≤ group < groups={groups}")


@dataclass
class _Run:
    """The passes of a plan, in order. Iterating it does the work, a step a pass; passes already kept are skipped."""

    engine: Engine
    plan: Plan
    kept: Partial
    batches: Sequence[Mapping[str, Tensor]]
    device: torch.device
    points: Sequence[float]
    m: int
    objective: Objective
    position: Position
    together: bool
    reduction: Reduction
    checked: bool = field(default=False)

    def __iter__(self) -> Iterator[int]:
        done = 0
        for piece in self.plan.pieces:
            end = done + len(piece.units)
            if end <= self.kept.done:
                yield from range(done, end)
                done = end
                continue
            rows = {name: x[list(piece.rows)].to(self.device) for name, x in self.batches[piece.batch].items()}
            where, group = self._trimmed(rows)
            clean = pending = None  # the last piece's memory is free before the next one's is taken
            clean = self.engine.clean(rows, where)
            if not self.checked and piece.units[0].points is not None:  # the shared end of the path checks by itself
                self.engine.check()
            self.checked = True
            pending = [torch.zeros((), device=self.device)] * len(clean.beta)
            for unit in piece.units:
                if done >= self.kept.done:
                    self._unit(unit, clean, where, group, pending)
                    done += 1
                    self._keep(done, end, clean, where, group, pending)
                else:
                    done += 1
                yield done

    def _trimmed(self, rows: dict[str, Tensor]) -> tuple[Layout, Tensor]:
        """Drop the padding that only the rows of other pieces needed."""
        width = int(rows["attention_mask"].sum(1).max())
        for name in ("input_ids", "attention_mask", "labels"):
            rows[name] = rows[name][:, :width]
        if len(self.kept.sums) == 1:
            rows["group"] = torch.zeros(len(rows["labels"]), dtype=torch.long, device=self.device)
        return layout(rows["labels"], rows["attention_mask"], self.position), rows["group"]

    def _unit(self, unit: Unit, clean: Clean, where: Layout, group: Tensor, pending: list[Tensor]) -> None:
        if unit.points is None:
            grads = self.engine.gradients_at_clean(self.objective)
        else:
            at = [self.points[p] for p in unit.points]
            grads = self.engine.gradients(unit.layers, at, [1.0] * len(at), self.objective, self.together)
        for layer, gradient in zip(unit.layers, grads, strict=True):
            beta = clean.beta[layer]
            att = beta.to(precise(beta.dtype)) * gradient / self.m
            if self.reduction == "absolute":
                pending[layer] = pending[layer] + att  # |Σ_j|, not Σ_j |·|: wait for the other path points
            else:
                self._add(layer, att, where, group)

    def _keep(self, done: int, end: int, clean: Clean, where: Layout, group: Tensor, pending: list[Tensor]) -> None:
        """Absolute values exist only once a piece is through, so only then are its sums kept."""
        if self.reduction == "absolute":
            if done < end:
                return
            for layer, att in enumerate(pending):
                self._add(layer, att.abs(), where, group)
        self.kept.save(done, force=done == end)

    def _add(self, layer: int, att: Tensor, where: Layout, group: Tensor) -> None:
        """Sum [B, N, D] over samples into the rows' groups."""
        by_row = att.masked_fill(~where.scored[:, :, None], 0).sum(1, dtype=precise(att.dtype)).cpu().double()
        self.kept.sums[:, layer].index_add_(0, group.cpu(), by_row)


@dataclass(frozen=True, kw_only=True)
class Integrated:
    """Exact integrated gradients, SIMU's attribution. The fields are those of `neuron_attribution`."""

    m: int = 5
    """Path points, ≥ 1."""
    objective: Objective = "log_prob"
    position: Position = "next_token"
    layers: Layers = "single"
    path: Path_ = "right"
    reduction: Reduction = "signed"
    tokens: Tokens = "answer"
    batch_size: int = 16
    """Rows of a micro-batch as the caller feeds them; memory may cut it smaller, the result does not depend on it."""
    max_memory: float | None = None
    """GiB for everything; None: what `simu.attribution.plan` says."""
    recompute: bool | None = None
    """Recompute activations backwards; None: only where memory asks for it."""

    def __post_init__(self) -> None:
        require(self.m >= 1, "m", self.m, "m ≥ 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "batch_size ≥ 1")
        require(self.max_memory is None or self.max_memory > 0, "max_memory", self.max_memory, "GiB > 0, or null")

    def _settings(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if name != "batch_size"}

    def __call__(
        self, model: nn.Module, batches: Batches, *, groups: int | None = None, checkpoint: str | Path | None = None
    ) -> NeuronScores:
        """Sums over samples: float32 [L, D], or [G, L, D]."""
        return neuron_attribution(model, batches, groups=groups, checkpoint=checkpoint, **self._settings())  # type: ignore[arg-type]

    def plan(
        self, model: nn.Module, batches: Batches, *, groups: int = 1, device: torch.device | str | None = None
    ) -> Plan:
        """Bytes and FLOPs by stage on `device`; `model` may be on the meta device."""
        given = [{**batch, "labels": scored_labels(batch, self.tokens)} for batch in batches]
        return plan(
            model,
            given,
            m=self.m,
            position=self.position,
            layers=self.layers,
            path=self.path,
            max_memory=self.max_memory,
            recompute=self.recompute,
            groups=groups,
            device=device,
        )
