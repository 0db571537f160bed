"""SIMU: selective influence machine unlearning (arXiv 2510.07822), as a reference implementation and a bench."""

import os

# Before torch loads: threads that wait sleep instead of spinning. Where anything else wants the cores, spinning made a
# step of the tiny model eight times slower (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
