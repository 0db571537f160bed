"""python -m simu.run: Hydra around the job, and the exit status.

0 done; 1 a job of a sweep failed, or something unforeseen; 2 the user can mend it, said in one line; 130 and 143
stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

import hydra
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig

from simu import stop
from simu.cli.guard import SINGLE
from simu.cli.messages import explain
from simu.cli.sweeps import SweepStatus, done_of
from simu.config import conf_dir
from simu.console import forgiving
from simu.presets import register


def at_home(word: str) -> str:
    """`~` as the home folder in the paths that are Hydra's own; simu's say that they are paths (`simu.fields.PATH`)."""
    found = re.fullmatch(r"(hydra\.(?:run|sweep)\.dir=)(['\"]?)(~[^'\"]*)\2", word)
    return f'{found[1]}"{os.path.expanduser(found[3])}"' if found else word


def run_hydra(job: Callable[[DictConfig], float | None]) -> None:
    """Compose the command line's config, or its sweep's, and run the job on each."""
    forgiving()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    overrides = [a for a in sys.argv[1:] if not a.startswith("-")]
    if int(os.environ.get("RANK", "0")) > 0:  # of a process group, the main process alone leaves a run folder
        scratch = tempfile.mkdtemp(prefix="simu-")
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={scratch}", f"hydra.sweep.dir={scratch}", "hydra.output_subdir=null"]
    if not any(word.startswith("hydra.mode=") for word in overrides):
        # Hydra's own composes everything once more to find out what the flags say already
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    sys.argv[1:] = sorted(
        map(at_home, sys.argv[1:]), key=lambda a: a not in ("-m", "--multirun")
    )  # argparse wants it first
    try:
        register(conf_dir())
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
        if SINGLE:
            raise SINGLE[0]
    except KeyboardInterrupt as stopped:
        stop.end()
        traceback.clear_frames(stopped.__traceback__)  # bars that stand on the terminal end with their frames
        print(f"simu: stopped{so_far()}; {stop.GOES_ON}", file=sys.stderr)
        sys.exit(stop.status_of(stopped))
    except Exception as error:
        if (line := explain(error, overrides)) is None:
            raise
        print(f"simu: {line}", file=sys.stderr)
        sys.exit(2)
    finally:
        stop.end()
    if SweepStatus.failed:
        sys.exit(1)


def composed(overrides: Sequence[str]) -> DictConfig:
    """What `python -m simu.run OVERRIDES` would run. Raises what Hydra does: `simu.cli.messages.explain` has words."""
    register(conf_dir())
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return hydra.compose("config", overrides=list(overrides))


def so_far() -> str:
    """' after 3 of 9 jobs' of a sweep."""
    if SweepStatus.sweep is None:
        return ""
    return " after {} of {} jobs".format(*done_of(SweepStatus.sweep))
