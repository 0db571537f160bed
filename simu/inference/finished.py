"""Finished batches of generation in a folder, so that a killed call goes on where it was."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simu.inference.drafts import Row
from simu.store.files import digest, write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedBatches:
    """Finished batches in a folder: one JSON Lines file each, whole or not there; a row has its own checksum."""

    folder: Path | None

    def load(self, name: str, rows: Sequence[Row]) -> bool:
        """Put the rows where a finished batch left them; False where there is none, or none that can be read."""
        path = self.folder and self.folder / f"{name}.jsonl"
        if path is None or not path.is_file():
            return False
        try:
            found = {r["row"]: r for r in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
            kept = [found[row.index] for row in rows]
            if any(k.pop("sha256", None) != digest(k) for k in kept):
                raise ValueError("altered")
            states = [
                ([int(i) for i in k["ids"]], bool(k["finished"]), bool(k["truncated"]), int(k["doubt"])) for k in kept
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: not a finished batch (%s), computed again", path, error)
            return False
        for row, (ids, finished, truncated, doubt) in zip(rows, states, strict=True):
            row.ids, row.finished, row.truncated, row.doubt = ids, finished, truncated, doubt
        return True

    def save(self, name: str, rows: Sequence[Row]) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        states = [
            {"row": r.index, "ids": r.ids, "finished": r.finished, "truncated": r.truncated, "doubt": r.doubt}
            for r in rows
        ]
        lines = [json.dumps(state | {"sha256": digest(state)}) for state in states]
        write_atomic(self.folder / f"{name}.jsonl", "\n".join(lines) + "\n")
