"""Whose an output folder is: a lock on a file in it, held by the process that works there until that process ends.

So two runs never share a folder, and a run that says `running` although nobody holds its folder was killed. Nothing of
the machine or the user is written down.
"""

from __future__ import annotations

import errno
from itertools import count
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no POSIX locks: every folder is taken to be free
    fcntl = None  # type: ignore[assignment]

FILE = ".claim"
_HELD: dict[Path, Any] = {}


def claim(folder: Path) -> bool:
    """Hold a folder, made where it is not there, until `release` or this process's end; False: another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / FILE
    if path in _HELD:
        return True
    handle = path.open("a")
    if _locked(handle, exclusive=True) is False:
        handle.close()
        return False
    _HELD[path] = handle
    return True


def claim_new(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3, … that is not there yet, made and held."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        made = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            made.mkdir()
        except FileExistsError:
            continue
        if claim(made):
            return made
    raise AssertionError


def release(folder: Path) -> None:
    """Give a folder back; nothing happens where this process does not hold it."""
    if handle := _HELD.pop(folder.resolve() / FILE, None):
        handle.close()


def abandoned(folder: Path) -> bool:
    """Whether a folder was claimed by a process that has gone. False where it lives, and where nobody can know."""
    try:
        with (folder / FILE).open("r") as handle:
            return _locked(handle, exclusive=False) is True
    except OSError:
        return False


def _locked(handle: Any, exclusive: bool) -> bool | None:
    """None where the file system has no locks, so that nobody can know."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True
