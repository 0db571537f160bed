"""Of a planted target: what scores, mask and unlearning say against the units that hold the forget rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simu.metrics.localisation import of_change, of_mask, of_scores
from simu.models.anatomy import anatomy, by_unit
from simu.models.load import Loaded
from simu.stages.artifact import Artifact
from simu.stages.planting import Units
from simu.types import NeuronMask, NeuronUnit, Scores


def localised(
    units: Units,
    unit: NeuronUnit,
    taught: Artifact[Loaded],
    scores: Artifact[Scores] | None,
    mask: NeuronMask | None,
    unlearned: Artifact[Loaded] | None,
) -> dict[str, float]:
    """`localisation/…` of what there is, the baseline of the units' weight norms beside it, and `change/…`."""
    target, _ = taught.load()
    found = of_scores(norms(target, unit), units.forget, units.decoy, "weight_norm/")
    if scores is not None:
        found |= of_scores(scores.load().values.cpu(), units.forget, units.decoy)
    if mask is not None:
        found |= of_mask(mask.cpu(), units.forget)
    if unlearned is not None:
        model, _ = unlearned.load()
        change, total = moved(target, model, unit)
        found |= of_change(change, total, units.forget, units.decoy)
    return found


@torch.no_grad()
def norms(model: nn.Module, unit: NeuronUnit) -> Tensor:
    """‖W[unit]‖₂ of every unit, float64 [L, units] on the CPU."""
    weights = [by_unit(m, m.weight, unit).double() for m in anatomy(model).down_projections]  # type: ignore[arg-type]
    return torch.stack([w.norm(dim=1) for w in weights]).cpu()


@torch.no_grad()
def moved(before: nn.Module, after: nn.Module, unit: NeuronUnit) -> tuple[Tensor, float]:
    """‖δ[unit]‖₂ of every unit, float64 [L, units] on the CPU, and ‖δ‖² over all weights."""
    pairs = zip(anatomy(before).down_projections, anatomy(after).down_projections, strict=True)
    change = [by_unit(b, b.weight.double() - a.weight.double(), unit) for b, a in pairs]  # type: ignore[operator]
    own = dict(after.named_parameters())
    total = sum(float((p.double() - own[name].double()).pow(2).sum()) for name, p in before.named_parameters())
    return torch.stack([c.norm(dim=1) for c in change]).cpu(), total
