"""Data sets as `Splits` (tofu, lume, mini), their way into batches (batching), and a digest of what rows say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

from simu.types import Example


def digest(rows: Iterable[Example]) -> str:
    """SHA-256 (hex) of the rows' fields, in order, as canonical JSON: the cache's key for data.

    Paths and modification times do not enter it. The order of rows does, since training sees it.
    """
    sha = hashlib.sha256()
    for row in rows:
        sha.update(json.dumps(asdict(row), sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    return sha.hexdigest()
