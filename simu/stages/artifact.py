"""What flows between stages: artifacts, values with an address, loaded when they are needed and not before.

A stage is a module with NAME, TOGETHER, a frozen dataclass `Inputs` (ALL that its result is a function of; fields
marked KNOB cannot change it), compute(inputs, folder, context) that leaves the result in a folder, and
load(inputs, folder, context) that reads it back. No stage calls another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
import torch.distributed as dist

from simu.store.cache import Cache, Entry
from simu.store.identity import Address, address
from simu.types import Precision, Template

if TYPE_CHECKING:
    from accelerate import PartialState

log = logging.getLogger("simu")

T = TypeVar("T")


@dataclass(frozen=True)
class Artifact(Generic[T]):
    """A result that is there, or was found to be."""

    stage: str
    digest: str
    """Of all that it is a function of: as an input of another stage, it stands for itself."""
    folder: Path | None
    """None: nothing of it lies in the cache (a published model)."""
    read: Callable[[], T] = field(repr=False)
    cached: bool = True
    """It was there already."""

    def load(self) -> T:
        """The value, read anew each time: nothing is kept in memory."""
        return self.read()

    def identity(self) -> dict[str, str]:
        return {"stage": self.stage, "digest": self.digest}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How every stage reads rows and holds numbers."""

    template: Template
    max_length: int
    """Tokens of a row at most."""
    precision: Precision
    device: str
    """Its type (cpu, cuda, mps): results differ between types in their last digits."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where stages work. Nothing here can change a result."""

    cache: Cache
    device: torch.device
    group: PartialState | None
    """The process group that a launcher has set up; None: this process is alone."""
    tracker: Any
    """An open tracker run."""
    done: dict[str, Any] = field(default_factory=dict)
    """Of each stage done: digest, seconds, cached. For provenance.json."""

    @property
    def main(self) -> bool:
        """Whether this process writes what all have computed."""
        return self.group is None or bool(self.group.is_main_process)


def do(stage: Any, inputs: Any, context: Context, label: str) -> Artifact[Any]:
    """The artifact of a stage, from the cache or computed now; said in a line and noted for provenance.json."""
    place = address(stage.NAME, stage.__name__, inputs)

    def compute(folder: Path) -> None:
        stage.compute(inputs, folder, context)

    entry = (
        _in_group(context.cache, place, compute, stage.TOGETHER)
        if context.group
        else context.cache.stage(place, compute)
    )
    how = f"from the cache ({entry.digest})" if entry.cached else f"{entry.seconds:.1f} s"
    log.info("%-24s %s", label, how)
    context.done[label] = {"digest": entry.digest, "seconds": round(entry.seconds, 3), "cached": entry.cached}
    return Artifact(
        stage.NAME, entry.digest, entry.folder, lambda: stage.load(inputs, entry.folder, context), entry.cached
    )


def _in_group(cache: Cache, place: Address, compute: Callable[[Path], None], together: bool) -> Entry:
    """`Cache.stage` in a process group: the main process alone looks after the cache and says where the work is, or
    that there is none; the others join in what is done together."""
    announced: list[Any] = []

    def work(folder: Path) -> None:
        announced.append(str(folder))
        dist.broadcast_object_list([announced[0]])
        compute(folder)

    if dist.get_rank() == 0:
        entry = cache.stage(place, work)
        if not announced:
            dist.broadcast_object_list([None])
        dist.broadcast_object_list([entry])
        return entry
    heard: list[Any] = [None]
    dist.broadcast_object_list(heard)
    if heard[0] is not None and together:
        compute(Path(heard[0]))
    dist.broadcast_object_list(heard)
    return Entry(**vars(heard[0]))
