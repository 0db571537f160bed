"""Whether a model has collapsed: what the metric table marks so (`Metric.collapse`), seen beside the model before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from simu.metrics.metric import PREFIXES, SPLIT_ROLES, SUFFIXES, Found, entries, find

BEFORE = PREFIXES[0]
MAIN_SPLITS = tuple(next(s for s, r in SPLIT_ROLES.items() if r == role) for role in ("forget", "retain"))
"""The first split to forget, the first to keep."""


def signs(metrics: Iterable[str]) -> list[str]:
    """Keys of whole splits that tell a collapse, by split and in the table's order; none of before unlearning."""
    own = (key for key in metrics if key.split("/")[0] not in PREFIXES and key.rsplit("/", 1)[-1] not in SUFFIXES)
    split, order = list(SPLIT_ROLES), list(entries())
    places = {
        key: (split.index(found.split), order.index(found.metric.key))
        for key in own
        if (found := find(key)) and found.split and found.metric.collapse is not None and not found.groups
    }
    return sorted(places, key=lambda key: places[key])


def collapsed(metrics: Mapping[str, float]) -> list[str]:
    """'forget Repetition 0.985 (before: 0.010)' for each sign that is beyond its line and was not before; [] for a
    model that speaks as it did. `metrics`: a run's metrics.json; without `original/…` the line alone counts."""
    said = []
    for key in signs(metrics):
        before = metrics.get(f"{BEFORE}/{key}")
        if (found := find(key)) and beyond(found, metrics[key]) and (before is None or not beyond(found, before)):
            told = "" if before is None else f" (before: {before:.3f})"
            said.append(f"{found.label} {metrics[key]:.3f}{told}")
    return said


def beyond(found: Found, value: float) -> bool:
    """Whether a value is on the worse side of the line, if there is one and the role has a worse side."""
    line = found.metric.collapse
    if line is None or found.better not in ("lower", "higher"):
        return False
    return value > line if found.better == "lower" else value < line
