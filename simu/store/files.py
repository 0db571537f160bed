"""Files that are whole or not there, and digests of what they hold. Nothing else in simu renames or hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Raises TypeError for what JSON cannot say."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """The first 20 hex digits of SHA-256 over the canonical JSON of `value`."""
    return text_digest(canonical(value))[:20]


def text_digest(text: str | bytes) -> str:
    """SHA-256 in hex; a text as UTF-8."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over type, shape and bytes of a tensor on any device."""
    content = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{content.dtype}{tuple(content.shape)}".encode())
    sha.update(content.flatten().view(_bytes()).numpy().tobytes() if content.numel() else b"")
    return sha.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file (or to make a folder) at; at the end it takes the place of `path`, flushed to disk.

    Whole or not at all: after an error `path` is as it was and nothing is left beside it. Files honour the umask, those
    of a folder too, whatever the library that wrote them chose. A folder in a file's place gives way.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        files = [p for p in temporary.rglob("*") if p.is_file()] if temporary.is_dir() else [temporary]
        for file in files:
            file.chmod(MODE)
        if temporary.is_dir() or path.is_dir():
            remove(path)
        if not temporary.is_dir():
            _flush(temporary)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


MODE = 0o666 & ~_umask()
"""Of the files that simu makes."""


def remove(path: Path) -> None:
    """Whatever lies there: a folder with all in it, a file, a link (not what it names), or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises ValueError, and nothing else, where there is none (no file, a link, a list)."""
    try:
        if path.is_symlink() or not path.is_file():  # what is no file may never end
            raise ValueError(f"{path.name} is {'not a file' if os.path.lexists(path) else 'missing'}")
        found = json.loads(path.read_bytes())
    except (OSError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """As `write_atomic`; sorted keys, two spaces."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """As `write_atomic`: one object a line, sorted keys."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """What `write_json_lines` wrote. Not splitlines(): a collapsed model may well say U+0085 or U+2028."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata=metadata)
