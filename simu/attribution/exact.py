"""Integrated gradients of every neuron, exactly (arXiv 2510.07822, Eq. 1-2).

    Att(l, k) = (1/m) Σ_j Σ_i β_{l,i}^k · ∂L_i(a_j) / ∂a_j^k          a_j = (j/m) · β_{l,i}

Sample i is one scored token; β_{l,i} is layer l's down-projection output where that token is predicted; or, for hidden
neurons, what the down-projection reads there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from simu.attribution.engine.capture import Clean, Layout, Position, layout, precise, undisturbed
from simu.attribution.engine.cutting import MicroBatch, Pass
from simu.attribution.engine.engine import Engine
from simu.attribution.engine.planning import Plan, plan
from simu.attribution.engine.tail import Objective
from simu.attribution.path import PathRule, path_points
from simu.attribution.samples import Batches, require_groups, scored_batches
from simu.data.batches import Tokens
from simu.progress import track
from simu.stop import held
from simu.store.partial import Partial, fingerprint
from simu.types import NeuronScores, NeuronUnit

log = logging.getLogger(__name__)

Layers = Literal["single", "all"]
Reduction = Literal["signed", "absolute"]


@overload
def neuron_attribution(
    model: nn.Module, batches: Batches, *, return_completeness: Literal[False] = False, **settings: Any
) -> NeuronScores: ...
@overload
def neuron_attribution(
    model: nn.Module, batches: Batches, *, return_completeness: Literal[True], **settings: Any
) -> tuple[NeuronScores, Tensor | None]: ...
def neuron_attribution(  # type: ignore[misc]  # the overloads leave the settings to this signature
    model: nn.Module,
    batches: Batches,
    *,
    m: int = 5,
    unit: NeuronUnit = "row",
    objective: Objective = "log_prob",
    position: Position = "next_token",
    layers: Layers = "single",
    path: PathRule = "gauss",
    reduction: Reduction = "signed",
    tokens: Tokens = "answer",
    groups: int | None = None,
    max_memory: float | None = None,
    recompute: bool | None = None,
    checkpoint: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    return_completeness: bool = False,
) -> NeuronScores | tuple[NeuronScores, Tensor | None]:
    """Attribution of each neuron, summed over samples: [L, units] of `dtype`, or [G, L, units] with `groups`; on the
    CPU. There are D units a layer, or F hidden ones.

    model: a Hugging Face causal decoder (see `simu.models.anatomy`), any floating type; left as it was.
    batches: dicts of LongTensors [B, T], right-padded: input_ids, attention_mask, labels (-100 where not scored).
    m: path points. unit: `row` replaces the down-projection's output, whose channels are scored, `hidden` what it
        reads, the activation of the d_ff hidden neurons.
    objective: L_i = log P(y), -log P(y) or P(y) of the scored token y.
    position: `next_token` replaces the vector where the token is predicted, for each sample by itself (exact);
        `sequence` scales it at all predicting positions of one teacher-forced pass.
    layers: one layer's vector at a time, or all layers' together.
    path: Gauss-Legendre nodes and weights (`gauss`), j/m (`right`, as printed), (j-1)/m (`left`) or (j-1/2)/m
        (`midpoint`).
    reduction: samples are summed with their sign, or their absolute values are.
    tokens: `answer` scores the labels (answer and EOS); `template` also tokens that batch["template"] (LongTensor
        [B, T]) marks with 1.
    groups: number of groups G; batch["group"] (LongTensor [B]) then says which group a row belongs to. Costs nothing.
    max_memory, recompute: see `simu.attribution.plan`.
    return_completeness: also how far each layer's scores are from what they should add up to (see `completeness`):
        float64 [L]; None under `reduction="absolute"`, where nothing says what that is.
    checkpoint: folder for partial sums (made if need be). A killed call, started again with the same arguments, goes on
        from there and gives the same result; the caller removes it.

    Costs, for one row, about what its tokens cost and not their square: see docs/attribution.md. Scores are
    accumulated in float64 (products in float32 for models below float64).

    Raises UserError, in one line, for a model that cannot be treated exactly (by name, with the reason), rows padded on
    the left, a missing `template` or `group`, and a `max_memory` below what one row needs.
    """
    fractions, weights = path_points(m, path)
    scored = scored_batches(batches, tokens)
    for batch in scored if groups is not None else ():
        require_groups(batch, groups or 0)
    cut = plan(
        model,
        scored,
        m=m,
        unit=unit,
        position=position,
        layers=layers,
        path=path,
        max_memory=max_memory,
        recompute=recompute,
        groups=groups or 1,
    )
    log.info("%s", cut)
    settings = {
        "m": m,
        "unit": unit,
        "objective": objective,
        "position": position,
        "layers": layers,
        "path": path,
        "reduction": reduction,
        "groups": groups,
        "micro_batches": cut.micro_batches,
    }
    digest = fingerprint(model, scored, settings) if checkpoint is not None else ""
    with undisturbed(model), torch.enable_grad():
        engine = Engine(model, unit=unit, recompute=cut.recompute, logits_rows=cut.logits_rows)
        shape = (groups or 1, engine.parts.n_layers, engine.parts.units(unit) + 1)
        kept = Partial(checkpoint, digest, shape, torch.float64)
        sums = _Sums(engine, cut, kept, scored, fractions, weights, objective, position, layers == "all", reduction)
        for _ in track(sums, "attribution", total=cut.passes, unit="pass"):
            pass
    scores = kept.sums[..., :-1].to(dtype) if groups is not None else kept.sums[0, :, :-1].to(dtype)
    if not return_completeness:
        return scores
    return scores, completeness(kept.sums.sum(0), layers == "all") if reduction == "signed" else None


def completeness(sums: Tensor, together: bool = False) -> Tensor:
    """|Σ_k Att(l, k) − Σ_i [L_i(β) − L_i(0)]| / |Σ_i [L_i(β) − L_i(0)]| of each layer: float64 [L], 0 where the path
    integral has converged (captum's convergence delta, relative). With `together` one figure for all layers, repeated.

    sums: float64 [L, units + 1], scores and, last, Σ_i [L_i(β) − L_i(0)].
    """
    scored, gain = sums[:, :-1].sum(1), sums[:, -1]
    if together:
        scored = scored.sum().expand_as(gain)
    off = (scored - gain).abs()
    return torch.where(off == 0, 0.0, off / gain.abs())


@dataclass
class _Sums:
    """The passes of a plan, in order. Iterating it does the work, a step a pass; passes already kept are skipped.

    The last column of the sums is what a layer's scores should add up to: Σ_i [L_i(β) − L_i(0)].
    """

    engine: Engine
    plan: Plan
    kept: Partial
    batches: Sequence[Mapping[str, Tensor]]
    fractions: Sequence[float]
    weights: Sequence[float]
    objective: Objective
    position: Position
    together: bool
    reduction: Reduction
    checked: bool = field(default=False)

    def __iter__(self) -> Iterator[int]:
        done = 0
        for micro in self.plan.micro_batches:
            first, done = done, done + len(micro.passes)
            if done <= self.kept.done:
                yield from range(first, done)
            else:
                yield from self._micro_batch(micro, first, done)

    def _micro_batch(self, micro: MicroBatch, first: int, end: int) -> Iterator[int]:
        """Passes first..end - 1, but those that the kept sums hold. Its memory is free when the next one begins."""
        rows, where = self._trimmed(micro)
        clean = self.engine.clean(rows, where)
        if not self.checked and micro.passes[0].points is not None:  # the shared end of the path checks by itself
            self.engine.check(clean)
        self.checked = True
        pending = [torch.zeros((), device=where.positions.device)] * len(clean.beta)
        for done, one in enumerate(micro.passes, first + 1):
            if done > self.kept.done:
                with held():
                    self._pass(one, clean, rows["group"], pending)
                    self._keep(done, end, clean, rows["group"], pending)
            yield done

    def _trimmed(self, micro: MicroBatch) -> tuple[dict[str, Tensor], Layout]:
        """Its rows, without the padding that only the rows of other micro-batches needed."""
        device = next(self.engine.subject.model.parameters()).device
        rows = {name: x[list(micro.rows)].to(device) for name, x in self.batches[micro.batch].items()}
        width = int(rows["attention_mask"].sum(1).max())
        for name in ("input_ids", "attention_mask", "labels"):
            rows[name] = rows[name][:, :width]
        if len(self.kept.sums) == 1:
            rows["group"] = torch.zeros(len(rows["labels"]), dtype=torch.long, device=device)
        return rows, layout(rows["labels"], rows["attention_mask"], self.position)

    def _pass(self, one: Pass, clean: Clean, group: Tensor, pending: list[Tensor]) -> None:
        if one.points is None:
            grads = self.engine.gradients_at_clean(clean, self.objective, self.weights[-1])
        else:
            fractions, weights = ([x[p] for p in one.points] for x in (self.fractions, self.weights))
            grads = self.engine.gradients(clean, one.layers, fractions, weights, self.objective, self.together)
        for layer, gradient in zip(one.layers, grads, strict=True):
            att = self.engine.scores(clean, layer, gradient) / len(self.fractions)
            if self.reduction == "absolute":
                pending[layer] = pending[layer] + att  # |Σ_j|, not Σ_j |·|: wait for the other path points
            else:
                self._add(layer, att, clean.where, group)
        if self.reduction == "signed" and one.begins(len(self.fractions)):
            for layer, gain in zip(
                one.layers, self.engine.gains(clean, one.layers, self.objective, self.together), strict=True
            ):
                self.kept.sums[:, layer, -1].index_add_(0, group.cpu(), gain.cpu().double())

    def _keep(self, done: int, end: int, clean: Clean, group: Tensor, pending: list[Tensor]) -> None:
        """Absolute values exist only once a micro-batch is through, so only then are its sums kept."""
        if self.reduction == "absolute":
            if done < end:
                return
            for layer, att in enumerate(pending):
                self._add(layer, att.abs(), clean.where, group)
        self.kept.save(done, force=done == end)

    def _add(self, layer: int, att: Tensor, where: Layout, group: Tensor) -> None:
        """Sum [B, N, units] over samples into the rows' groups."""
        by_row = att.masked_fill(~where.scored[:, :, None], 0).sum(1, dtype=precise(att.dtype)).cpu().double()
        self.kept.sums[:, layer, :-1].index_add_(0, group.cpu(), by_row)
