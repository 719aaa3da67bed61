"""Seal a directory: size and sha256 of every file, written last, checked before anything is read.

Checkpoints and prepared data sets are sealed. The checkpoint library restores a file with a flipped
bit without a word, and its commit marker is not enforced on local disks; the manifest is what makes
a step a checkpoint. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.json"


class Damaged(Exception):
    """A sealed directory no longer is what was written; the message names the file."""


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME)


def write_durably(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the whole new one, also after a crash."""
    scratch = path.with_name(path.name + ".part")
    with scratch.open("w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(scratch, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def seal(folder: Path, **about: Any) -> None:
    """Write the manifest of a finished directory; ``about`` is kept in it (JSON types)."""
    files = {p.relative_to(folder).as_posix(): [p.stat().st_size, file_digest(p)] for p in _files(folder)}
    write_durably(folder / NAME, json.dumps({"format": 1, **about, "files": files}, indent=1))


def is_sealed(folder: Path) -> bool:
    """Whether the directory carries a manifest."""
    return (folder / NAME).is_file()


def read(folder: Path) -> Mapping[str, Any]:
    """What `seal` wrote: ``files`` (name -> size and sha256) and whatever else it was given.

    Raises:
      Damaged: when the manifest cannot be read.
    """
    try:
        content = json.loads((folder / NAME).read_text())
        return {**content, "files": {name: tuple(entry) for name, entry in content["files"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder / NAME}: unreadable ({type(error).__name__})") from error


def verify(folder: Path, sizes_only: bool = False) -> None:
    """Check every file of a sealed directory.

    Args:
      folder: the directory.
      sizes_only: trust files of the right size; for data too large to be read at every start.

    Raises:
      Damaged: naming the first file that is missing, unknown or changed, or an unreadable manifest.
    """
    listed = read(folder)["files"]
    present = {p.relative_to(folder).as_posix(): p for p in _files(folder)}
    for name in sorted(set(listed) ^ set(present)):
        raise Damaged(f"{folder / name}: {'missing' if name in listed else 'not part of what was sealed'}")
    for name, path in present.items():
        size, digest = listed[name]
        if path.stat().st_size != size or (not sizes_only and file_digest(path) != digest):
            raise Damaged(f"{path}: differs from what was written")
