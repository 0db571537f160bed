"""The processes that a launcher runs a sweep's jobs in, when the sweep is told to stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

PATIENCE = 20.0
"""Seconds for the workers to write their checkpoints; schedulers kill everything after 30."""


def tell_workers(busy: Callable[[], bool]) -> None:
    """Tell this process's workers to stop, and wait until no job is at work any more, or for `PATIENCE`."""
    workers = multiprocessing.active_children()
    for worker in workers:
        with suppress(OSError):
            os.kill(worker.pid or 0, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while busy() and any(worker.is_alive() for worker in workers) and time.monotonic() < end:
        time.sleep(0.1)
