"""How well scores, masks and updates find the units that a planted target holds its forget rows in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simu.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = "docs/localisation.md; after INJ (Chang et al. 2024) and LACUNA (arXiv 2607.02513)"


def auc(values: Tensor, of: Tensor, against: Tensor) -> float:
    """Probability that a unit of `of` has a higher value than one of `against` (ties half): ROC AUC in [0, 1].

    values: [L, units]; of, against: bool [L, units], both with a unit at least.
    """
    from sklearn.metrics import roc_auc_score  # the table of metrics is read without it

    chosen = of | against
    return float(roc_auc_score(of[chosen].numpy(), values[chosen].double().numpy()))


def of_scores(scores: Tensor, forget: Tensor, decoy: Tensor, name: str = "") -> dict[str, float]:
    """`auc`: against the decoy units, trained as much on other rows; `auc_all`: against all others;
    `precision_at_count`: of the highest scores, as many as are planted. All of [L, units]."""
    flat, planted = scores.flatten(), forget.flatten()
    highest = flat.argsort(descending=True, stable=True)[: int(planted.sum())]
    return {
        f"localisation/{name}auc": auc(scores, forget, decoy),
        f"localisation/{name}auc_all": auc(scores, forget, ~forget),
        f"localisation/{name}precision_at_count": float(planted[highest].float().mean()),
    }


def of_mask(mask: Tensor, forget: Tensor) -> dict[str, float]:
    """`precision`: share of the selected units that are planted (of none selected: not defined, left out); `recall`:
    share of the planted units that are selected."""
    chosen = mask > 0
    hit = float((chosen & forget).sum())
    found = {"localisation/recall": hit / float(forget.sum())}
    return found | ({"localisation/precision": hit / float(chosen.sum())} if bool(chosen.any()) else {})


def of_change(change: Tensor, total: float, forget: Tensor, decoy: Tensor) -> dict[str, float]:
    """Of ‖δ_unit‖₂ [L, units], how much unlearning moved a unit: `auc` against the decoy units, `precision` of as many
    as are planted, and `outside`: the share of ‖δ‖² (`total`, over all weights) that fell on no planted unit."""
    found = of_scores(change, forget, decoy)
    inside = float((change.double() ** 2)[forget].sum())
    return {
        "change/auc": found["localisation/auc"],
        "change/precision": found["localisation/precision_at_count"],
        "change/outside": max(0.0, 1 - inside / total) if total > 0 else 0.0,
    }


def _figure(key: str, label: str, **more: Any) -> Metric:
    fields = {"better": {"whole": "higher"}, "bounds": (0, 1), "aggregate": "whole", "source": SOURCE, **more}
    return Metric(key=key, label=label, **fields)


METRICS = (
    _figure("localisation/auc", "AUC", chance=0.5, headline=True, span="Localisation", words="localisation AUC"),
    _figure("localisation/auc_all", "AUC, all", chance=0.5, span="Localisation", words="localisation AUC, all units"),
    _figure("localisation/precision_at_count", "P@count", span="Localisation", words="localisation precision at count"),
    _figure("localisation/precision", "Precision", span="Localisation", words="precision of the mask"),
    _figure("localisation/recall", "Recall", span="Localisation", words="recall of the mask"),
    _figure(
        "localisation/weight_norm/auc", "AUC, norm", better={}, span="Localisation", words="AUC of the weight norm"
    ),
    _figure("localisation/weight_norm/auc_all", "AUC, norm, all", better={}, span="Localisation"),
    _figure("localisation/weight_norm/precision_at_count", "P@count, norm", better={}, span="Localisation"),
    _figure("change/auc", "AUC", chance=0.5, span="Change", words="AUC of the change"),
    _figure("change/precision", "Precision", span="Change", words="precision of the change"),
    _figure("change/outside", "Outside", better={"whole": "lower"}, span="Change", words="share of the change outside"),
)
