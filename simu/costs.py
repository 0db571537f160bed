"""How long the stages of a run would take here: their FLOPs over what a matrix product reaches. For `dry_run`.

Rows are as long as `simu.dryrun` estimates them. What cannot be known before is said beside the figure: how many passes
a target needs, and how much a model stammers once it has unlearned.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from simu.config import RunConfig
from simu.data.batching import Encoded
from simu.models.anatomy import anatomy
from simu.optim.zeroth import BuildHybrid, BuildZerothOrder
from simu.slots import OwnAlternatives

GENERATES = 0.28
"""Where texts are generated: evaluation as measured; alternatives and attacks generate likewise, not measured apart."""

SHARE = {"target": 0.5, "attribution": 0.57, "unlearning": 0.52}
SHARE |= {"alternatives": GENERATES, "evaluation": GENERATES, "robustness": GENERATES}
"""Of the rate of one large matrix product, that a stage reaches on CPUs (docs/performance.md has the measurement)."""

PASSES = {"pretrained": 8, "random": 30}
"""Over its rows, that a target took to know them all: SmolLM2-135M, and tiny."""

STAMMER = 2.0
"""Tokens that an unlearned model writes, over those of the true answers."""

MEASURED = 4e10
"""FLOPs that the measurement costs: well below a second on two cores."""


@dataclass(frozen=True)
class Widths:
    """Weights that a token is multiplied by."""

    block: int
    """Of all blocks: attention and MLPs."""
    head: int
    attention: int
    """Of `block`, what always trains."""

    @classmethod
    def of(cls, model: nn.Module) -> Widths:
        parts = anatomy(model)
        block = sum(p.numel() for module in parts.blocks for p in module.parameters() if p.ndim > 1)
        attention = sum(p.numel() for layer in parts.attention for _, one in layer for p in one.parameters())
        return cls(block, sum(p.numel() for p in parts.head.parameters() if p.ndim > 1), attention)

    def forward(self, rows: Sequence[Encoded]) -> float:
        """FLOPs of one forward pass of each row, with logits at its answer."""
        tokens, labelled = sum(map(len, rows)), sum(len(row.answer) for row in rows)
        return 2.0 * (self.block * tokens + self.head * labelled)


@cache
def matmul_rate(width: int, device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of [width, width] @ [width, width], the best of a few; width between 512 and 2048."""
    n = max(512, min(2048, width))
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best, spent = float("inf"), 0.0
    while spent < MEASURED:
        start = time.perf_counter()
        (a @ b).sum().item()  # waits for the device
        best, spent = min(best, time.perf_counter() - start), spent + 2.0 * n**3
    return 2.0 * n**3 / best


def stage_flops(
    cfg: RunConfig, model: nn.Module, encoded: Mapping[str, list[Encoded]], attribution: float | None
) -> dict[str, float]:
    """FLOPs of each stage that `cfg.stages` asks for. `encoded`: forget, retain, taught, and `evaluated/…` rows;
    `attribution`: of one side, where it has a plan."""
    widths, found = Widths.of(model), {}
    if encoded["taught"]:
        found["target"] = 4.0 * passes(cfg) * widths.forward(encoded["taught"])  # trained on, and looked at once a pass
    if attribution is not None:
        found["attribution"] = attribution * len(cfg.mask.needs)
    if isinstance(loss := cfg.objective.forget, OwnAlternatives) and "unlearning" in cfg.stages:
        found["alternatives"] = (1.0 + loss.alternatives) * widths.forward(encoded["forget"])
    found["unlearning"] = unlearning_flops(cfg, widths, encoded["forget"], encoded["retain"])
    rows = [row for name, some in encoded.items() if name.startswith("evaluated/") for row in some]
    found["evaluation"] = (4.0 + STAMMER) * widths.forward(rows)  # likelihoods and texts, before and after
    found["robustness"] = robustness_flops(cfg, widths, encoded)
    asked = (*cfg.stages, "target", "alternatives")
    return {stage: flops for stage, flops in found.items() if stage in asked and flops}


def unlearning_flops(cfg: RunConfig, widths: Widths, forget: list[Encoded], retain: list[Encoded]) -> float:
    """Forward, backward through all blocks, and gradients of what trains; retained rows are drawn as often."""
    rows = cfg.training.steps(len(forget)) * cfg.training.batch_size
    one, other = widths.forward(forget) / len(forget), widths.forward(retain) / max(1, len(retain))
    trained = widths.attention / widths.block if cfg.selection.reads_mask else 1.0
    gradients = (one * cfg.perturbation.passes + other) * (2.0 + trained)
    share = {BuildZerothOrder: 1.0, BuildHybrid: 0.5}.get(type(cfg.optimizer), 0.0)  # of the steps
    losses = 2.0 * getattr(cfg.optimizer, "draws", 0) * (one + other)
    return rows * ((1.0 - share) * gradients + share * losses)


def robustness_flops(cfg: RunConfig, widths: Widths, encoded: Mapping[str, list[Encoded]]) -> float:
    """Of all attacks, on the unlearned model and both controls: what each says of its work, else one evaluation."""
    most = cfg.robustness.rows
    asked = [row for side in ("forget", "retain") for row in encoded.get(f"evaluated/{side}", [])[:most]]
    one = widths.forward(encoded["forget"]) / len(encoded["forget"])
    works = [getattr(attack, "work", (1, 0)) for attack in cfg.robustness.attacks.values()]
    evaluations, trained = (sum(work[i] for work in works) for i in (0, 1))
    return victims(cfg) * ((1.0 + STAMMER) * evaluations * widths.forward(asked) + 3.0 * trained * one)


def victims(cfg: RunConfig) -> int:
    """Models that are attacked: the unlearned one, the original, and the retain-only one where there is one."""
    return 3 if cfg.retain_reference else 2


def passes(cfg: RunConfig) -> int:
    known = "random" if cfg.model.learns_background else "pretrained"
    return min(PASSES[known], cfg.model.target.max_epochs)


def lines(flops: Mapping[str, float], rate: float, cfg: RunConfig) -> list[str]:
    """The plan's lines: minutes a stage and in all."""
    seconds = {stage: amount / (rate * SHARE[stage]) for stage, amount in flops.items()}
    notes = {
        "target": f"{passes(cfg)} passes, as such models took; at most {cfg.model.target.max_epochs}",
        "evaluation": "of the target and of the unlearned model",
        "robustness": f"of {victims(cfg)} models" if "robustness" in flops else "",
    }
    told = [f"    {s:<28} {clock(seconds[s]):>8}   {notes.get(s, '')}".rstrip() for s in seconds]
    total = f"  time         about {clock(sum(seconds.values()))} where nothing is cached, at {rate / 1e9:.0f} GFLOP/s"
    return [total, *told]


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
