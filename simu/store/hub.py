"""Whether the hub serves what a run names: said within seconds, in one line (its client alone takes up to minutes).

Nothing is asked for a local folder, nor of what is in the local cache, nor with HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simu.types import UserError

TIMEOUT = 5
"""Seconds."""
CONFIGS = ("config.json", "tokenizer_config.json")


def offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def check_data_set(repository: str) -> None:
    """Raise UserError where the hub does not serve a data set; offline, the loader says so itself, at once."""
    if offline():
        return
    if (error := refused(lambda api: api.dataset_info(repository, timeout=TIMEOUT))) is not None:
        raise unreachable_data_set(repository, error) from error


def unreachable_data_set(repository: str, error: Exception) -> UserError:
    """One line for whatever the hub client raised."""
    why = "HF_HUB_OFFLINE=1 and it is not in the local cache" if offline() else type(error).__name__
    instead = "" if offline() else ", HF_TOKEN for a gated set, or HF_HUB_OFFLINE=1 for a cached one"
    return UserError(
        f"data.path=null: {repository} cannot be had from the hub ({why}); "
        f"pass a local folder (data.path=/path/to/folder){instead}"
    )


def check_model(source: str, key: str, revision: str | None = None) -> None:
    """Raise UserError where a model or a tokenizer can be had neither from a folder nor from the hub.

    `key` is what the user typed it under: 'model.path'.
    """
    if Path(source).exists():
        if (Path(source) / "adapter_config.json").exists():
            raise UserError(f"{key}={source}: an adapter; allowed is a model folder with the adapter merged into it")
        if not any((Path(source) / name).is_file() for name in CONFIGS):
            raise UserError(f"{key}={source}: no config.json there; allowed is a Hugging Face model folder or a hub id")
        return
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        raise UserError(f"{key}={source}: no such folder; allowed is a Hugging Face model folder or a hub id")
    if snapshot(source, revision) is not None:
        return
    instead = f"pass a local folder ({key}=/path/to/folder), or HF_TOKEN for a gated model"
    if offline():
        raise UserError(f"{key}={source}: not in the local hub cache and HF_HUB_OFFLINE=1; {instead}")
    if (error := refused(lambda api: api.model_info(source, revision=revision, timeout=TIMEOUT))) is not None:
        raise UserError(f"{key}={source}: the hub does not serve it ({type(error).__name__}); {instead}") from error


def snapshot(source: str, revision: str | None = None) -> Path | None:
    """The folder that a source is read from: itself, or its place in the local hub cache; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        return Path(source)
    found = (try_to_load_from_cache(source, name, revision=revision) for name in CONFIGS)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def commit(repository: str, revision: str | None) -> str | None:
    """The commit that a branch or tag (None: main) is in the local cache; None where it is not there."""
    return None if (folder := snapshot(repository, revision)) is None else folder.name


def refused(ask: Callable[[Any], object]) -> Exception | None:
    """What the client raised: a dozen kinds, each of which means the same to the user."""
    from huggingface_hub import HfApi

    try:
        ask(HfApi())
    except Exception as error:
        return error
    return None


def check_fetched(repository: str, key: str, instead: str) -> None:
    """Raise UserError where a data set that a library fetches by itself is neither in its cache nor on the hub."""
    from datasets import config

    if (Path(config.HF_DATASETS_CACHE) / repository.replace("/", "___")).is_dir():
        return
    error = None if offline() else refused(lambda api: api.dataset_info(repository, timeout=TIMEOUT))
    if offline() or error is not None:
        why = "HF_HUB_OFFLINE=1 and it is not in the local cache" if offline() else type(error).__name__
        raise UserError(f"{key}: {repository} cannot be had from the hub ({why}); {instead}") from error
