"""What a run would do and cost, without loading a weight: `dry_run=true`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from simu import costs
from simu.config import RunConfig
from simu.data.batching import Encoded, collate
from simu.models.anatomy import Anatomy, anatomy
from simu.slots import OfPlanted
from simu.types import Example, Splits, Template, called

GIB = 2**30
CHARACTERS_A_TOKEN = 4.0
"""English text under the usual vocabularies, about; the tokenizer itself is not loaded."""

CHAT = Template(prompt="." * 120 + "{prompt}", separator="")
"""A chat's turns are about as long; the tokenizer that has them is not loaded."""


def describe(cfg: RunConfig, splits: Splits) -> str:
    """Rows, neurons, what trains, bytes of its state, and the attribution's bytes and FLOPs by stage."""
    model = cfg.model.skeleton(cfg.data.name, cfg.precision.dtype)
    parts, unit = anatomy(model), cfg.attribution.unit
    neurons = math.prod(parts.shape(unit))
    total = sum(p.numel() for p in model.parameters())
    steps = cfg.training.steps(len(splits.forget))
    lines = [
        f"{cfg.method.name} on {cfg.model.name}, {cfg.data.name}: dry run, nothing is loaded",
        f"  rows         forget {len(splits.forget)}, retain {len(splits.retain)}, evaluated "
        + ", ".join(f"{name} {len(rows)}" for name, rows in splits.evaluation.items()),
        f"  target       {target_line(cfg, splits)}",
        f"  model        {total / 1e9:.3f} G parameters, {weight_bytes(model) / GIB:.2f} GiB as "
        f"{cfg.precision.weights}, {neurons} {called(unit)} ({parts.n_layers} layers x {parts.units(unit)})",
        f"  training     {steps} steps of {cfg.training.batch_size} forget rows",
        *training_lines(cfg, parts, total),
        *([f"  attacks      {', '.join(cfg.robustness.attacks)}"] if cfg.robustness.attacks else []),
    ]
    plan = attribution_plan(cfg, model, splits)
    flops = costs.stage_flops(cfg, model, estimated_rows(cfg, splits), plan and plan.flops)
    lines += costs.lines(flops, costs.matmul_rate(parts.d_model, cfg.torch_device(), cfg.precision.dtype), cfg)
    return "\n".join(lines if plan is None else [*lines, str(plan)])


def attribution_plan(cfg: RunConfig, model: PreTrainedModel, splits: Splits) -> Any:
    """Its bytes and FLOPs for the forget rows; None where no scores are needed, or none can be planned."""
    needed = cfg.mask.needs and cfg.selection.reads_mask and not isinstance(cfg.mask, OfPlanted)
    attribution: Any = cfg.attribution
    return attribution.plan(model, estimated_batches(cfg, splits)) if needed and hasattr(attribution, "plan") else None


def target_line(cfg: RunConfig, splits: Splits) -> str:
    """What the target is taught, and which rows it is measured on without being taught them."""
    if (known := cfg.model.published(cfg.data.name)) is not None:
        return f"{known}: taught nothing, it knows the rows"
    counts = {"forget": len(splits.forget), "retain": len(splits.retain)}
    if cfg.model.learns_background and splits.background:
        counts["background"] = len(splits.background)
    taught = {(e.prompt, e.answer) for e in taught_rows(cfg, splits)}
    measured = ((name, {(e.prompt, e.answer) for e in some}) for name, some in splits.evaluation.items())
    apart = [name for name, texts in measured if texts and not texts & taught]
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{sum(counts.values())} rows ({said}), untaught: {', '.join(apart) or 'none'}"


def taught_rows(cfg: RunConfig, splits: Splits) -> tuple[Example, ...]:
    """Of the target; none where it is published, or said to know them."""
    if cfg.model.published(cfg.data.name) is not None:
        return ()
    return (*splits.forget, *splits.retain, *(splits.background if cfg.model.learns_background else ()))


def weight_bytes(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def training_lines(cfg: RunConfig, parts: Anatomy, total: int) -> list[str]:
    """Trained numbers and the bytes of their gradients, masters and two moments, for no, some and all neurons."""
    if not cfg.selection.reads_mask:
        return [state_line("every parameter", total, cfg)]
    attention = sum(p.numel() for layer in parts.attention for _, module in layer for p in module.parameters())
    unit = cfg.attribution.unit
    what, neurons = {"row": "rows", "hidden": "columns"}[unit], math.prod(parts.shape(unit))
    tensors = (p for module in parts.down_projections for p in module.parameters())
    width = sum(p.numel() for p in tensors if unit == "row" or p.ndim > 1) // neurons  # a bias is no column's
    return [
        state_line(f"attention and {share:.0%} of {what}", attention + round(share * neurons) * width, cfg)
        for share in (0.0, 0.05, 1.0)
    ]


def state_line(what: str, trained: int, cfg: RunConfig) -> str:
    weights = cfg.precision.dtype.itemsize
    low = weights < 4 and cfg.precision.master
    state = trained * (3 * 4 + 4 if low else 3 * weights)  # gradient, moments, and a master where weights are low
    return (
        f"    {what:<28} {trained / 1e9:8.3f} G numbers trained, {state / GIB:8.2f} GiB of gradients, masters, moments"
    )


def layout_of(cfg: RunConfig, splits: Splits) -> Template:
    own = cfg.model.template
    return splits.template or (own if isinstance(own, Template) else CHAT)


def estimated_rows(cfg: RunConfig, splits: Splits) -> dict[str, list[Encoded]]:
    """Rows as long as the real ones: forget, retain, taught, and `evaluated/…` by split."""
    template, room = layout_of(cfg, splits), cfg.model.max_length
    groups = {"forget": splits.forget, "retain": splits.retain, "taught": taught_rows(cfg, splits)}
    groups |= {f"evaluated/{name}": rows for name, rows in splits.evaluation.items()}
    return {name: [estimated(e, template, room) for e in rows] for name, rows in groups.items()}


def estimated_batches(cfg: RunConfig, splits: Splits) -> list[dict[str, Tensor]]:
    """Micro-batches as long as the forget rows are: real text, about four characters a token, ids all zero."""
    template = layout_of(cfg, splits)
    rows = sorted((estimated(e, template, cfg.model.max_length) for e in splits.forget), key=len, reverse=True)
    size = cfg.attribution.batch_size
    tags = 1 + round(len(template.render("")) / CHARACTERS_A_TOKEN)
    batches: list[dict[str, Tensor]] = []
    for i in range(0, len(rows), size):
        batch: dict[str, Tensor] = {**collate(rows[i : i + size], 0)}  # type: ignore[dict-item]
        first = torch.arange(batch["labels"].shape[1]) < tags  # template tags, wherever they stand: cost what these do
        batches.append(batch | {"template": first.long().expand_as(batch["labels"])})
    return batches


def estimated(example: Example, template: Template, room: int) -> Encoded:
    prompt = 1 + round(len(template.render(example.prompt)) / CHARACTERS_A_TOKEN)
    answer = 1 + round(len(example.answer) / CHARACTERS_A_TOKEN)
    return Encoded((0,) * min(prompt, room - 1), (0,) * min(answer, max(1, room - prompt)))
