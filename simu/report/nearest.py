"""Which of several configs stands for a method: the one nearest to its preset. And the order of methods and masks."""

from __future__ import annotations

from collections.abc import Sequence

from simu.report import paper
from simu.report.defaults import value_of_option
from simu.report.groups import Group, owner
from simu.report.run import SLOTS, slot_of

METHODS = tuple(paper.methods())
SELECTIVE = "simu"
MASKS = ("dual", "forget_only", "contrastive", "soft", "random", "none", "all", "all weights")


def nearest_to_preset(groups: Sequence[Group]) -> list[Group]:
    """For each model, place and method the group with the fewest options that its method does not pick by itself, then
    with the fewest settings that differ from its preset's, then with the paper's mask, then the most seeds."""
    best: dict[tuple[str, str, str], list[Group]] = {}
    for g in groups:
        best.setdefault((g.model, g.place, g.method), []).append(g)
    return [min(same, key=lambda g: (changes(g, same), mask_rank(g.mask), -g.seeds)) for same in best.values()]


def changes(g: Group, same: Sequence[Group]) -> tuple[int, int]:
    """In how many options a group differs from what its method picks, and in how many settings from its preset's.

    `same`: the groups of its model, place and method. What one of them took from a preset holds for all that have the
    same option in that slot: a run that overrode the preset's value does not record it.
    """
    return len(g.foreign), len(unusual(g, same))


def unusual(g: Group, same: Sequence[Group]) -> list[str]:
    """Settings of a group that are neither its preset's nor its option's own."""
    presets: dict[str, object] = {}
    for run in (run for o in same for run in o.runs):
        presets |= {k: v for k, v in run.presets.items() if owner(k, run.settings) == owner(k, g.settings)}
    keys = [key for key in g.settings if slot_of(key) in SLOTS and key not in g.first.slots]
    usual = {key: presets.get(key, value_of_option(g.method, g.first.options, key)) for key in keys}
    return [key for key in keys if usual[key] is not None and g.settings[key] != usual[key]]


def by_mask(groups: Sequence[Group]) -> dict[str, Group]:
    """For each kind of mask, in MASKS' order, the group nearest to its preset; SIMU's where several methods use it."""
    found: dict[str, Group] = {}
    for g in sorted(groups, key=lambda g: (mask_rank(g.mask), g.method != SELECTIVE)):
        if g.mask not in found:
            like = [o for o in groups if (o.mask, o.method, o.place, o.model) == (g.mask, g.method, g.place, g.model)]
            found[g.mask] = nearest_to_preset(like)[0]
    return found


def by_place(groups: Sequence[Group]) -> list[list[Group]]:
    """The groups that were asked the same, by place and model."""
    found: dict[tuple[str, str], list[Group]] = {}
    for g in groups:
        found.setdefault((g.place, g.model), []).append(g)
    return [found[key] for key in sorted(found)]


def method_rank(method: str) -> tuple[int, str]:
    """The paper's methods first, in its order."""
    return (METHODS.index(method) if method in METHODS else len(METHODS)), method


def mask_rank(mask: str) -> int:
    return MASKS.index(mask) if mask in MASKS else len(MASKS)


def rank(g: Group) -> tuple[object, ...]:
    """The order of legends."""
    return *method_rank(g.method), mask_rank(g.mask), g.kind
