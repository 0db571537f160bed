"""A file that lets killed work go on: whole or not there, checked, and taken up only by the run that wrote it.

A checkpoint carries a layout version, the fingerprint of its run and a checksum of its content. Any of them that is not
as expected starts the work again from its beginning, with a line that says why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from simu.store.files import file_digest, read_json, replacing, write_json

log = logging.getLogger(__name__)

T = TypeVar("T")

LAYOUT = 1
"""Of the state that `save` is given and the files it makes; raised when either changes."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and plain values in a file; beside it, as .json, what the file must be."""

    path: Path | None
    """None: nothing is kept."""
    fingerprint: str
    """Digest of what decides the content: a file of another run is not taken up."""

    def save(self, state: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            torch.save(dict(state), temporary)
            # The record names the new file and the one that stands there still: whichever a kill leaves, it is known.
            known = [file_digest(temporary), *self._known()[:1]]
            write_json(self._beside, {"layout": LAYOUT, "fingerprint": self.fingerprint, "digests": known})

    def load(self) -> dict[str, Any] | None:
        """None where there is nothing to take up; with a warning if there is a file all the same."""
        if self.path is None or not os.path.lexists(self.path):
            return None
        record = self._record()
        if self.path.is_symlink() or not self.path.is_file():
            reason = "not a file"
        elif record.get("layout") != LAYOUT:
            reason = "of another layout"
        elif record.get("fingerprint") != self.fingerprint:
            reason = "of another run (settings, rows, code or seed differ)"
        elif file_digest(self.path) not in self._known():
            reason = "altered or truncated"
        else:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            return state
        log.warning("checkpoint %s is %s: starting anew", self.path, reason)
        return None

    @property
    def _beside(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".json")

    def _record(self) -> dict[str, Any]:
        try:
            return read_json(self._beside)
        except ValueError:
            return {}

    def _known(self) -> list[str]:
        found = self._record().get("digests")
        return found if isinstance(found, list) else []

    def kept(self, compute: Callable[[], T]) -> T:
        """The value in the file; else computed, and put there."""
        state = self.load()
        if state is not None:
            return state["value"]
        value = compute()
        self.save({"value": value})
        return value


def random_state() -> list[Tensor]:
    """The CPU's generator, then each CUDA device's."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]


def set_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
