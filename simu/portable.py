"""`precision.portable`: the same figures whatever the number of a machine's cores, and near the same on any x86-64 CPU.

The order in which numbers are added depends on threads and on the width of a CPU's instructions, and a small model
that is taught to memorise turns a last bit into another model. So: one thread, and no wider instructions than AVX2.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

WIDTH = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Read by torch, MKL and oneDNN when they load; what the user has set stays."""
THREADS: list[int] = []
"""What the process had before the first portable run; of a sweep's jobs some may be portable, some not."""


def narrow_instructions() -> None:
    """Before torch loads; without effect after that, and on other processors."""
    if "torch" not in sys.modules and platform.machine() in ("x86_64", "AMD64") and _has_avx2():
        for name, value in WIDTH.items():
            os.environ.setdefault(name, value)


def set_threads(portable: bool) -> None:
    """One thread for this run, or as many as the process had."""
    import torch

    if portable and not THREADS:
        THREADS.append(torch.get_num_threads())
    if THREADS:
        torch.set_num_threads(1 if portable else THREADS[0])


def _has_avx2() -> bool:
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux: torch finds out by itself
        return False
