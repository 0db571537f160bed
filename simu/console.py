"""Printing never costs a result: what a terminal, a pipe or a full disk does to printed lines ends with these lines."""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

TURNING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Signs without a shape that turn or break the line that they stand in."""


def inert(text: str) -> str:
    """On one line, without a sign that a terminal obeys: ESC becomes '\\x1b', half of a surrogate pair '\\ud800'."""
    if text.isprintable():
        return text
    return "".join(_seen(letter) for letter in " ".join(text.split("\n")))


def shortened(text: str, most: int) -> str:
    """At most so many letters, the last one an ellipsis where more there were."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _seen(letter: str) -> str:
    obeyed = unicodedata.category(letter) in ("Cc", "Cs") or letter in TURNING
    return letter.encode("unicode_escape").decode() if obeyed else letter


def forgiving() -> None:
    """Signs that the encoding of stdout or stderr lacks become replacement signs instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def show(printing: Callable[[], Any]) -> None:
    """Print; where that cannot be done (a closed pipe, a full disk), the rest of the process prints nothing."""
    try:
        printing()
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):  # ValueError: a stream that was closed, or signs that it does not take
        silence()


def silence() -> None:
    """What is printed from here on goes nowhere; the interpreter's own flush at its end included."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # no file behind it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


class Lines(logging.StreamHandler[Any]):
    """Log lines on a line of their own: a progress bar steps aside and comes back below (conf/config.yaml)."""

    def emit(self, record: logging.LogRecord) -> None:
        if "tqdm" not in sys.modules:  # no bar was ever made
            super().emit(record)
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # the name is logging's
        if isinstance(sys.exc_info()[1], OSError):
            silence()
        else:
            super().handleError(record)
