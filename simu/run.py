"""The entry point: compose → build → pipeline → score. `python -m simu.run --help` lists slots and options."""

from __future__ import annotations

if __name__ == "__main__":
    from simu import stop

    stop.listen(speaks=True)  # before anything that takes time to import

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from simu import stop
from simu.cli.guard import guarded, job_settings
from simu.portable import narrow_instructions

if TYPE_CHECKING:
    from omegaconf import DictConfig


@guarded
def job(config: DictConfig) -> float | None:
    """One composed config → one run folder → the aggregate score (None where nothing was evaluated)."""
    from simu.config import build_run, check_run, conf_dir, plain, settings

    check_run(config)  # plain mistakes are said before torch loads
    if config.precision.portable:
        narrow_instructions()
    from simu import pipeline
    from simu.presets import taken
    from simu.store.provenance import Record

    told = job_settings(config)
    cfg, values = build_run(config), plain(config)
    presets = taken(conf_dir(), told.options, values)
    facts: dict[str, Any] = {
        "benchmark": cfg.evaluator.benchmark,
        "method": cfg.method.name,
        "options": told.options,
        "settings": settings(cfg, values),
        "seeded": told.seeded,
        "presets": presets,
    }
    record = Record(folder=told.folder, switches=values, command=told.overrides, facts=facts)
    return pipeline.run(cfg, record, Path(told.folder), told.labels)


def main() -> None:
    stop.listen(speaks=True)
    from simu.cli.main import run_hydra

    run_hydra(job)


class Callable(ModuleType):
    """`simu.run(…)` is a function of the API, and `simu.run` a module that `python -m` runs: this one is both."""

    def __call__(self, *overrides: str) -> Any:
        from simu.api.runs import run

        return run(*overrides)


sys.modules[__name__].__class__ = Callable


if __name__ == "__main__":
    from simu.run import main as entry  # under its own name, so that Hydra's callback and this are one module

    entry()
