"""SIGINT and SIGTERM: work stops where it can go on from, and says so in one line.

Before a run has begun (imports, composing) and after it has ended there is nothing to keep: the process ends at once.
In between `Stopped` is raised: at once, or at the end of what may not be cut in two (`held`).
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

GOES_ON = "the same command goes on from the last checkpoint"


class Stopped(KeyboardInterrupt):
    """Raised by a signal, whose number it carries. No Exception: nothing that goes on after errors catches it."""

    @property
    def number(self) -> int:
        return int(self.args[0]) if self.args else int(signal.SIGINT)


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status that shells and schedulers expect: 130 after SIGINT, 143 after SIGTERM."""
    return 128 + (error.number if isinstance(error, Stopped) else int(signal.SIGINT))


def reason(error: BaseException) -> str:
    """'SIGTERM', for a record."""
    return signal.Signals(error.number).name if isinstance(error, Stopped) else type(error).__name__


class _State:
    speaks = False
    """Whether this process tells the user; a sweep's worker does not."""
    working = False
    """Whether a run has begun, so that there is something to keep."""
    asked = 0
    """The signal that came first; 0: none."""
    held = 0
    """How many blocks are open that a signal does not cut in two."""
    first: Callable[[], None] | None = None
    """What a signal does first of all: a sweep tells its workers."""


def listen(speaks: bool) -> None:
    """Take SIGINT and SIGTERM over, where nobody else has (a launcher's own handler stays, ignored stays ignored)."""
    for number, untouched in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == untouched:
            with suppress(ValueError):  # another thread than the main one hears no signals
                signal.signal(number, _heard)
                _State.speaks = speaks


def begin(first: Callable[[], None] | None = None) -> bool:
    """A run begins; False where one had begun already. `first`: what a signal does first of all."""
    begun, _State.working = _State.working, True
    _State.first = first or _State.first
    return not begun


def end() -> None:
    """Nothing is left to keep."""
    _State.working, _State.first = False, None


def asked() -> int:
    """The signal that has come; 0: none."""
    return _State.asked


def ask(number: int) -> None:
    """As if the signal had come, but nothing is raised before the next `check`."""
    _State.asked = _State.asked or number


def check() -> None:
    """Raise Stopped where a signal has come: also one whose exception was lost in somebody's callback."""
    if _State.asked and _State.working and not _State.held:
        raise Stopped(_State.asked)


@contextmanager
def held() -> Iterator[None]:
    """A block that a signal does not cut in two: Stopped is raised at its end."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
    check()


def _heard(number: int, frame: FrameType | None) -> None:
    """SIGTERM again changes nothing (launchers send it twice); a second Ctrl-C does not wait any longer."""
    again = bool(_State.asked)
    ask(number)
    if not _State.working or (again and number == signal.SIGINT):
        if _State.speaks:
            os.write(2, f"simu: stopped; {GOES_ON}\n".encode())
        os._exit(128 + number)
    if not again:
        if _State.first is not None:
            _State.first()
        check()
