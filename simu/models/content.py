"""What a model folder or hub repository holds, for the cache."""

from __future__ import annotations

from pathlib import Path

from simu.models.folder import read_files
from simu.store.files import digest, file_digest
from simu.store.hub import commit


def content(source: str, revision: str | None = None, weights: bool = True) -> str:
    """What a folder or hub repository holds, for the cache: a folder by its files (`folder_digest`), a repository by
    its commit in the local cache, to which branches and tags point in turn."""
    if Path(source).is_dir():
        return folder_digest(Path(source), weights)
    return f"{source}@{commit(source, revision) or revision}"


def folder_digest(folder: Path, weights: bool = True) -> str:
    """Of the names and bytes of what a model folder is read for: weights, config, tokenizer, templates.

    Without `weights`: of what a tokenizer is read for, so that one kept beside gigabytes of weights is quick to name.
    A sentence encoder has its parts in folders beside each other (1_Pooling).
    """
    found = [p for p in read_files(folder) if weights or p.suffix != ".safetensors"]
    return digest({str(p.relative_to(folder)): file_digest(p) for p in found if p.is_file()})
