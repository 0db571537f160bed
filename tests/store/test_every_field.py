"""A field that is not marked KNOB changes the digest of a stage; one that is changes none."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from data_folders import OWN, lume, own, tofu
from every_field import Config, Key, changed, configs, default
from small import SMALL
from transformers import LlamaConfig, LlamaForCausalLM

from simu import pipeline
from simu.config import SLOTS, RunConfig, build_run
from simu.fields import Knob, alternatives, bare, hints, marks
from simu.stages.artifact import Artifact, Context
from simu.store.identity import address
from simu.types import UserError

SAME = {
    "method.name": "a label: what it stands for is in the slots",
    "Lume.forget": "the small folder has rows of one task",
    "Pretrained.base": "read where there is an adapter",
    "Suite.rows": "read by attacks, and here is none",
}
NO_OTHER = {"Mini.path", "Tofu.path", "Tofu.forget", "Lume.path", "Lume.mia_member_file", "Lume.mia_nonmember_file"}
NO_OTHER |= {f"Own.{name}" for name in ("path", "forget", "retain", "holdout", "paraphrase")}
NO_OTHER |= {f"Own.{name}" for name in ("prompt", "answer", "text", "group", "id")}
NO_OTHER |= {"FromConfig.target.skip", "Top.count", "Suite.attacks", "Suite.metrics"}
"""Files count by their content, columns by what stands in them, and there is no other here; a model from its config
has to be taught; a count is null beside a share; attacks are components, and which metrics there are is known later."""


class Token:
    """A stage's value as another stage's input: it stands for how it was made."""

    def __init__(self, digest: str):
        self.digest = digest

    def identity(self) -> str:
        return self.digest

    def __iter__(self) -> Iterator[None]:
        return iter(())


def digests(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Label → digest of each stage of a run, without computing one."""
    found: dict[str, str] = {}

    def do(stage: Any, inputs: Any, context: Context, label: str) -> Artifact:
        made = address(stage.NAME, stage.__name__, inputs).digest
        found[label.partition(" (")[0] + str("original" in label) + str("retain" in label)] = made
        return Artifact(stage.NAME, made, None, lambda: Token(made))

    monkeypatch.setattr(pipeline, "do", do)
    monkeypatch.setattr("simu.store.identity.code_digest", lambda modules: "")  # the code is not what changes here
    monkeypatch.setattr("simu.models.load.skeleton", lambda *_: small_model())
    cfg = build_run(config)
    context = Context(cache=MagicMock(), device=torch.device("cpu"), group=None, tracker=None)
    pipeline.flow(cfg, pipeline.read_rows(cfg), context, MagicMock())
    return found


@cache
def small_model() -> LlamaForCausalLM:
    """Whose sizes the mask stage reads; the model itself counts by `Model.identity`."""
    return LlamaForCausalLM(LlamaConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}))


def others(hint: Any, value: Any) -> Iterator[Any]:
    """Other values that a field may hold, the nearest first."""
    literals = [
        a
        for arm in alternatives(hint)
        for a in typing.get_args(bare(arm))
        if typing.get_origin(bare(arm)) is typing.Literal
    ]
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, value * 2, 2 * value + 2, value // 2, value // 4)
    elif isinstance(value, float):
        yield from (value / 2, value * 2, 0.25)
    elif isinstance(value, list):
        yield from (value[:-1], value[1:], [0.5, 0.5])
    yield from (other for other in literals if str(other) != str(value))
    yield from (1, True, 0.5, f"{value}x", {"few": "x"}, {"model_type": "llama"}, "mistral", "cpu")


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def annotation(cfg: RunConfig, key: Key) -> tuple[Any, bool]:
    """The field's own annotation, and whether it or what holds it is marked KNOB."""
    held, knob, hint = cfg, False, None
    for name in key:
        hint = hints(type(held))[name]
        knob |= any(isinstance(mark, Knob) for mark in marks(hint))
        held = getattr(held, name)
    return hint, knob


def leaves(node: Any, above: Key = ()) -> Iterator[Key]:
    for name, value in node.items():
        if isinstance(value, dict) and value and name not in ("targets", "shape"):
            yield from leaves(value, (*above, name))
        elif name != "_target_":
            yield (*above, name)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    made = {"tofu": tofu, "lume": lume, "rows": own}
    return {name: str(make(tmp_path_factory.mktemp(name))) for name, make in made.items()}


def kind(node: Config) -> tuple[str, ...]:
    """The classes of a component and of those in it: presets of one class have the same fields."""
    inner = (kind(value) for value in node.values() if isinstance(value, dict) and "_target_" in value)
    return (node["_target_"], *(name for names in inner for name in names))


def options(data: dict[str, str]) -> Iterator[tuple[str, Config]]:
    """(slot, config): the default run on few rows, and it with one option of one slot in place of its own."""
    rows = next(config["data"] for config in configs() if config["data"]["name"] == "tofu")
    base = default() | {"data": rows | {"path": data["tofu"], "name": "few"}}
    yield "", base
    seen = {kind(base[slot]) for slot in SLOTS}
    for slot, node in ((slot, config[slot]) for config in configs() for slot in SLOTS):
        nowhere = slot == "model" and node.get("path", "") is None  # the command line has to say
        if kind(node) not in seen and not nowhere:
            seen.add(kind(node))
            path = {"path": data[node["name"]]} if slot == "data" and node["name"] in data else {}
            path |= OWN if path and node["name"] == "rows" else {}
            yield slot, base | {slot: node | path}


def test_every_field_is_an_input_or_a_knob(data, monkeypatch):
    fields, tried, moved, loud = set(), set(), set(), set()
    for slot, config in options(data):
        before, cfg = digests(config, monkeypatch), build_run(config)
        for key in (key for key in leaves(config) if slot in ("", key[0])):
            hint, knob = annotation(cfg, key)
            name = ".".join((type(getattr(cfg, key[0])).__name__, *key[1:])) if key[0] in SLOTS else ".".join(key)
            values = others(hint, held(config, key))
            known = (m for v in values if (m := moves(config, before, key, v, monkeypatch)) is not None)
            fields.add(name)
            for changes in known:
                tried.add(name)
                if changes or knob:
                    (loud if changes and knob else moved).add(name)
                    break
    assert len(tried) > 120
    assert fields - tried == NO_OTHER
    assert tried - moved - loud == set(SAME)
    assert loud == set()


def held(config: Config, key: Key) -> Any:
    for name in key:
        config = config[name]
    return config


def moves(config: Config, before: dict[str, str], key: Key, value: Any, monkeypatch: pytest.MonkeyPatch) -> bool | None:
    """Whether a stage of the changed run has another digest; None for a value that is refused, or the same."""
    if same(value, held(config, key)):
        return None
    try:
        after = digests(changed(config, key, value), monkeypatch)
    except UserError:
        return None
    return any(after[label] != before[label] for label in after if label in before)
