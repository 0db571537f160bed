"""The one place that turns what Hydra, OmegaConf, the disk and our own code raise into one line a person can act on."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from pathlib import Path

import yaml
from omegaconf import DictConfig

from simu.config import conf_dir, nearest
from simu.types import UserError


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def explain(error: BaseException, overrides: list[str]) -> str | None:
    """What is wrong with the command line, in one line; None where it is not the user's to mend."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return one_line(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error.missing_cfg_file, list(error.options or []))
    if isinstance(error, yaml.YAMLError | UnicodeError) and (file := _broken_yaml()):
        return file
    if (group := _group_by_dot(overrides)) is not None:
        return group
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _refused(one_line(error), overrides, error.__cause__)
    if str(error).startswith("Config group override must be"):
        return _bad_group_value(overrides)
    if plugin := re.search(r"Unknown plugin class.*hydra_(joblib|submitit|ray)_launcher", str(error)):
        extra = plugin[1].replace("submitit", "slurm")
        return f'hydra/launcher: the extra `{extra}` is not installed; allowed after pip install -e ".[{extra}]"'
    if "Could not detect" in str(error) and "srun" in str(error):
        return "hydra/launcher=submitit_slurm: no srun on this machine; allowed without a cluster is submitit_local"
    if refused := re.search(r"sbatch: error: (.*)", str(error)):
        cure = ", or hydra.launcher.gpus_per_node=0 on nodes without GPUs" if "gres" in refused[1] else ""
        return (
            f"hydra/launcher=submitit_slurm: sbatch refuses the job ({refused[1]}); allowed is what sinfo offers{cure}"
        )
    if no_room(error):
        return (
            f"no room to write ({one_line(error)[:200]}); free some in cache_dir (python -m simu.cache prune) or "
            "hydra.run.dir: the same command goes on from the last checkpoint"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename!s}: {error.strerror}; allowed is a folder to write to (hydra.run.dir, cache_dir)"
    if (words := [o for o in overrides if o.lstrip("+~").startswith("hydra")]) and not _is_ours(error):
        return f"{' '.join(words)[:200]}: Hydra cannot work with it ({type(error).__name__}: {one_line(error)[:200]})"
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised by code of simu beyond the command line: then it is no fault of Hydra's settings."""
    here = Path(__file__).parent
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    return any(here.parent in file.parents and here not in file.parents and file.stem != "run" for file in files)


def _broken_yaml() -> str | None:
    """The config file that cannot be read, and where: of the config groups and of --config-dir."""
    given = re.findall(r"(?:--config-dir|-cd|--config-path|-cp)[= ](\S+)", " ".join(sys.argv))
    for folder in (conf_dir(), *map(Path, given)):
        for path in sorted(folder.rglob("*.yaml")):
            try:
                yaml.safe_load(path.read_bytes())
            except yaml.MarkedYAMLError as error:
                mark = error.problem_mark
                where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
                return f"{path}{where}: broken YAML ({error.problem})"
            except (yaml.YAMLError, ValueError) as error:
                return f"{path}: broken YAML ({one_line(error)[:200]})"
    return None


def _group_by_dot(overrides: list[str]) -> str | None:
    """hydra.launcher=joblib puts a text where a launcher's settings are."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in ("hydra", "hydra.launcher", "hydra.sweeper", "hydra.job_logging", "hydra.hydra_logging"):
            slash = key.replace(".", "/") if "." in key else "hydra/launcher"
            return f"{override}: not a setting but a group; an option is chosen with a slash, as {slash}={value}"
    return None


def no_room(error: BaseException) -> bool:
    """A full disk, a spent quota or a limit on a file's size, as Python, safetensors and torch each say it."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in full
    numbers = "|".join(map(str, full))
    return bool(
        re.search(rf"\(os error ({numbers})\)|inline_container.*unexpected pos|PytorchStreamWriter failed", str(error))
    )


def _unknown_option(missing: str, options: list[str]) -> str:
    slot, _, value = missing.rpartition("/")
    allowed = f"; allowed: {', '.join(sorted(options))}" if options else ""
    near = nearest(value, options)
    hint = near.rstrip("?") if "did you mean" in near else ""
    return f"{slot}={value}: no such option{hint}{allowed}" if slot else f"{missing}: no such config{allowed}"


def _bad_group_value(overrides: list[str]) -> str | None:
    """Hydra raises a bare ValueError for `method=null` and the like."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        options = sorted(path.stem for path in (conf_dir() / key).glob("*.yaml")) if key else []
        if options and value not in options:
            return f"{override}: allowed is one of {', '.join(options)}"
        if not key:
            return f"{override}: allowed is key=value"
    return None


def _refused(message: str, overrides: list[str], cause: BaseException | None = None) -> str:
    """Hydra's message; for an unknown key, what the chosen option of its slot knows."""
    message = message.partition(" See https://hydra.cc")[0].replace(
        ", set env var HYDRA_FULL_ERROR=1 to see chained exception.", ";"
    )
    if message.startswith("Error merging override") and cause is not None:
        message = f"{message.removeprefix('Error merging override ')}: {str(cause).partition(chr(10))[0]}"
    if "LexerNoViableAlt" in message or "no viable alternative" in message:
        return f"{message}; a value with other signs than letters stands in quotes: 'key=\"value\"'"
    if not (found := re.search(r"Could not override '([^']+)'", message)):
        return message
    known, choices = _known(overrides)
    parent, _, leaf = found[1].rpartition(".")
    slot = next((s for s in (parent.replace(".", "/"), parent.partition(".")[0]) if choices.get(s)), None)
    option = f" with {slot}={choices[slot]}" if slot else ""
    beside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == parent]
    hint = re.sub("mean '", f"mean '{parent}." if parent else "mean '", nearest(leaf, beside or known))
    said = next((o for o in overrides if o.lstrip("+~").partition("=")[0] == found[1]), found[1])
    return f"{said}: no such key{option}{hint}"


def _known(overrides: list[str]) -> tuple[list[str], dict[str, str]]:
    """Every key and group of the run with the options that the command line chooses, and each slot's option."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    chosen = [o for o in overrides if "," not in o and (conf_dir() / o.lstrip("+").partition("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=chosen, return_hydra_config=True)
    choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items()}
    found: list[str] = []

    def walk(node: DictConfig, prefix: str) -> None:
        for key in map(str, node):
            found.append(f"{prefix}{key}")
            inner = node._get_node(key)
            if isinstance(inner, DictConfig) and not (inner._is_missing() or inner._is_none()):
                walk(inner, f"{prefix}{key}.")

    walk(config, "")
    return [key for key in found if "_target_" not in key], choices
