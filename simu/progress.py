"""One progress bar for every long step: what, how far, time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from threading import RLock
from typing import TypeVar

from tqdm import tqdm

from simu.stop import check

T = TypeVar("T")

tqdm.set_lock(RLock())  # its own is shared between processes: one that is killed leaves a semaphore, and a warning


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield `items` behind a bar on stderr; in a log file (no terminal) a line at most every 30 s.

    Raises Stopped between two items where the process was told to stop.
    """
    terminal = sys.stderr.isatty()
    bar = tqdm(
        items,
        desc=what,
        total=total,
        unit=unit,
        leave=False,
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 30.0,
        delay=0.0 if terminal else 5.0,
    )
    for item in bar:
        check()
        yield item
