"""A file that lets a killed training go on: whole or not there, and taken up only by the run that wrote it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and plain values in one file."""

    path: Path | None
    """None: nothing is kept."""
    fingerprint: str
    """Digest of what decides the content: a file of another run is not taken up."""

    def save(self, state: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            torch.save({**state, "fingerprint": self.fingerprint}, temporary)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """None where there is nothing to take up; with a warning if there is a file all the same."""
        if self.path is None or not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever the broken bytes lead to
            log.warning("checkpoint %s is not readable (%s): starting anew", self.path, type(error).__name__)
            return None
        if state.get("fingerprint") != self.fingerprint:
            log.warning("checkpoint %s is of another run (settings, rows or seed differ): starting anew", self.path)
            return None
        return state

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
