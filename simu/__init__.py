"""SIMU: selective influence machine unlearning (arXiv 2510.07822), as a reference implementation and a bench.

`simu.unlearn`, `evaluate`, `run`, `load_runs`, `neuron_attribution`, `critical_neurons`, `select_parameters` and
`Sophia` are the API; each loads what it needs when it is first named, so `import simu` loads no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before torch loads: threads that wait sleep instead of spinning. Where anything else wants the cores, spinning made a
# step of the tiny model eight times slower (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from simu.api.memory import Result, evaluate, unlearn
    from simu.api.runs import Run, load_runs, run
    from simu.attribution.exact import neuron_attribution
    from simu.masks.critical import critical_neurons
    from simu.optim.sophia import Sophia
    from simu.selection.select import select_parameters
    from simu.types import Template, UserError

PLACES = {
    "Result": "simu.api.memory",
    "Run": "simu.api.runs",
    "Sophia": "simu.optim.sophia",
    "Template": "simu.types",
    "UserError": "simu.types",
    "critical_neurons": "simu.masks.critical",
    "evaluate": "simu.api.memory",
    "load_runs": "simu.api.runs",
    "neuron_attribution": "simu.attribution.exact",
    "select_parameters": "simu.selection.select",
    "unlearn": "simu.api.memory",
}
"""Name → module that defines it."""
MODULES = ("attribution", "masks", "metrics", "optim", "run", "selection", "testing")
"""Modules that are loaded when they are named; `simu.run` can be called."""

__all__ = [
    "Result",
    "Run",
    "Sophia",
    "Template",
    "UserError",
    "critical_neurons",
    "evaluate",
    "load_runs",
    "neuron_attribution",
    "run",
    "select_parameters",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    if name in MODULES:
        return import_module(f"simu.{name}")
    raise AttributeError(f"module 'simu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES, *MODULES})
