"""python -m simu.run: Hydra around the job, and the exit status.

0 done; 1 a job of a sweep failed, or something unforeseen; 2 the user can mend it, said in one line; 130, 143 stopped.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from simu.cli.guard import SINGLE
from simu.cli.messages import explain
from simu.cli.sweeps import SweepStatus
from simu.config import conf_dir
from simu.console import forgiving
from simu.presets import register

COMMANDS = (
    "-r",
    "--run",
    "-m",
    "--multirun",
    "-c",
    "--cfg",
    "-i",
    "--info",
    "-sc",
    "--shell-completion",
    "-h",
    "--help",
    "--hydra-help",
    "--version",
)


def run_hydra(job: Callable[[DictConfig], float | None]) -> None:
    """Compose the command line's config, or its sweep's, and run the job on each."""
    forgiving()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    overrides = [a for a in sys.argv[1:] if not a.startswith("-")]
    if not any(word.split("=")[0] in COMMANDS for word in sys.argv[1:]):
        sys.argv.append("--run")  # else Hydra composes the config once more to find that out
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a not in ("-m", "--multirun"))  # argparse wants it first
    if int(os.environ.get("RANK", "0")) > 0:  # of a process group, the main process alone leaves a run folder
        scratch = tempfile.mkdtemp(prefix="simu-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={scratch}", "hydra.output_subdir=null"]
    try:
        register(conf_dir())
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
        if SINGLE:
            raise SINGLE[0]
    except KeyboardInterrupt:
        print("simu: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (line := explain(error, overrides)) is None:
            raise
        print(f"simu: {line}", file=sys.stderr)
        sys.exit(2)
    if SweepStatus.failed:
        sys.exit(1)
