"""Sums that survive a kill: written whole or not at all, and picked up only by the run that they belong to."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from simu.stop import asked
from simu.store.files import replacing, tensor_digest

log = logging.getLogger(__name__)
FILE = "attribution.partial.safetensors"
EVERY_SECONDS = 5.0
"""Least time between two writes inside one micro-batch; its end is always written."""


def fingerprint(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], settings: Mapping[str, object]) -> str:
    """SHA-256 of what the sums depend on: settings, rows, and of each parameter its name, shape, type and 64 values."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for batch in batches:
        for name in sorted(batch):
            digest.update(f"{name}{tuple(batch[name].shape)}".encode())
            digest.update(batch[name].cpu().contiguous().numpy().tobytes())
    for name, p in model.named_parameters():
        step = max(1, p.numel() // 64)
        sample = p.detach().flatten()[::step][:64].float().cpu()
        digest.update(f"{name}{tuple(p.shape)}{p.dtype}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


class Partial:
    """Sums float64 [G, L, D] in a file of a folder, with how many passes they hold; no folder: in memory only."""

    def __init__(self, path: str | Path | None, digest: str, shape: tuple[int, ...], dtype: torch.dtype):
        self.path = None if path is None else Path(path) / FILE
        self.digest, self.done, self.sums, self.written = digest, 0, torch.zeros(shape, dtype=dtype), time.monotonic()
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("digest") != self.digest:
                    log.warning("%s belongs to another attribution: starting anew", path)
                    return
                sums, done = file.get_tensor("sums"), file.get_tensor("done")
                if (file.metadata() or {}).get("content") != _content(sums, done):
                    log.warning("%s is altered: starting anew", path)
                    return
                self.sums, self.done = sums, int(done)
                log.info("%s: going on after %d passes", path, self.done)
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("%s cannot be read (%s): starting anew", path, error)

    def save(self, done: int, force: bool) -> None:
        """Note that `sums` hold the first `done` passes; written when `force` or told to stop, else at most
        every few seconds."""
        self.done = done
        if self.path is None or not (force or asked() or time.monotonic() - self.written >= EVERY_SECONDS):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        sums, passes = self.sums.cpu(), torch.tensor(done)
        about = {"digest": self.digest, "content": _content(sums, passes)}
        with replacing(self.path) as temporary:
            save_file({"sums": sums, "done": passes}, temporary, metadata=about)
        self.written = time.monotonic()


def _content(sums: Tensor, done: Tensor) -> str:
    """Checksum: a file of sums has no other sign of an altered bit."""
    return tensor_digest(sums) + tensor_digest(done)
