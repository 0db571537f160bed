"""One progress bar for every long step: what, how far, time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from threading import RLock
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from simu.stop import check

T = TypeVar("T")

tqdm.set_lock(RLock())  # its own is shared between processes: one that is killed leaves a semaphore, and a warning


EVERY_SECONDS = 30.0
"""Between two lines in a log file, at least."""
LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


class _InLines:
    """A log file: what a bar draws over itself on a terminal is a line each time, and nothing where it wipes itself."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        if said := text.strip("\r\n "):
            self.stream.write(f"{said}\n")


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield `items` behind a bar on stderr; in a log file (no terminal) a line every EVERY_SECONDS at most.

    Raises Stopped between two items where the process was told to stop.
    """
    terminal = sys.stderr.isatty()
    bar: Iterable[T] = tqdm(
        items,
        desc=what,
        total=total,
        unit=unit,
        leave=False,
        file=sys.stderr if terminal else _InLines(sys.stderr),
        bar_format=None if terminal else LINE,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else EVERY_SECONDS,
        delay=0.0 if terminal else EVERY_SECONDS,
        miniters=1,  # else a watching thread draws in between
    )
    for item in bar:
        check()
        yield item
