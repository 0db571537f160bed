"""The engine without one of its tricks at a time (benchmarks/attribution.py measures what each is worth)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from torch import Tensor

from simu.attribution import exact, plan
from simu.attribution.engine import planning
from simu.attribution.engine.capture import Layout, layout
from simu.attribution.engine.cutting import Pass
from simu.attribution.engine.engine import Engine
from simu.attribution.engine.planning import Plan


@contextmanager
def other_passes(change: Callable[[tuple[Pass, ...]], list[Pass]]) -> Iterator[None]:
    def planned(*args: object, **kwargs: object) -> Plan:
        made = plan(*args, **kwargs)
        return replace(
            made, micro_batches=tuple(replace(p, passes=tuple(change(p.passes))) for p in made.micro_batches)
        )

    with patch.object(exact, "plan", planned):
        yield


def points_apart(_: int) -> object:
    return other_passes(
        lambda passes: [
            Pass(u.layers, p) for u in passes for p in ([None] if u.points is None else [(j,) for j in u.points])
        ]
    )


def layers_apart(_: int) -> object:
    def change(passes: tuple[Pass, ...]) -> list[Pass]:
        return [v for u in passes for v in ([u] if u.points is None else [Pass((k,), u.points) for k in u.layers])]

    return other_passes(change)


def end_not_shared(m: int) -> object:
    def change(passes: tuple[Pass, ...]) -> list[Pass]:
        return [v for u in passes for v in ([u] if u.points else [Pass((k,), (m - 1,)) for k in u.layers])]

    return other_passes(change)


@contextmanager
def every_position(_: int) -> Iterator[None]:
    def whole(labels: Tensor, attention_mask: Tensor, position: str) -> Layout:
        kept = layout(attention_mask.cumsum(1) * attention_mask, attention_mask, position)
        target = labels.roll(-1, 1).gather(1, kept.positions)
        scored = kept.scored & (target != -100)
        return replace(kept, scored=scored, target=target.masked_fill(~scored, 0))

    with patch.object(exact, "layout", whole), patch.object(planning, "layout", whole):
        yield


@contextmanager
def mlp_computed(_: int) -> Iterator[None]:
    original = Engine.clean

    def clean(self: Engine, *args: object) -> object:
        state = original(self, *args)
        state.final = [False] * len(state.final)
        return state

    with patch.object(Engine, "clean", clean):
        yield


@contextmanager
def recomputed(_: int) -> Iterator[None]:
    with patch.object(exact, "plan", lambda *a, **k: plan(*a, **{**k, "recompute": True})):
        yield


WITHOUT = {
    "all path points in one pass": points_apart,
    "several layers' streams in one pass": layers_apart,
    "the end of the path shared by all layers": end_not_shared,
    "dropping positions that predict nothing": every_position,
    "stepping over the MLP whose output is replaced": mlp_computed,
    "keeping activations (recomputing them)": recomputed,
}
