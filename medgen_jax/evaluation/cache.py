"""Features of folders seen before, and reference statistics that travel as one file.

A cached entry is found by what it was computed from: the contents of the files in order, the network, the protocol.
It holds a checksum of its own; whatever fails it is computed anew. The entries used longest ago leave when all
together exceed `BUDGET`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop.packs import read_npz
from medgen_jax.metrics.frechet import Statistics

#: Of the path from file to feature; raised when the same files would give other features.
CODE_PATH = 1
BUDGET = 4 << 30

_FORMAT = "medgen_jax reference statistics 1"


def directory(environ: Mapping[str, str] = os.environ) -> Path:
    """``MEDGEN_CACHE``/features, else ~/.cache/medgen_jax/features."""
    return Path(environ.get("MEDGEN_CACHE") or "~/.cache/medgen_jax").expanduser() / "features"


def key(contents: str, conditions: Mapping[str, str]) -> str:
    """Name of an entry.

    Args:
      contents: digest of the images.
      conditions: network, weights and how images reach it.
    """
    return hashlib.sha256(json.dumps([contents, sorted(conditions.items()), CODE_PATH]).encode()).hexdigest()


def load(folder: Path, name: str, say: Callable[[str], None]) -> np.ndarray | None:
    """Features (n, d) of an entry; None when it is absent, or damaged, which is said."""
    path = folder / f"{name}.npz"
    if not path.is_file():
        return None
    try:
        content = read_npz(path, BUDGET)
        features, checksum = content["features"], content["sha256"].tobytes()
    except (UserError, KeyError):
        features, checksum = None, b""
    if features is None or checksum != _checksum(features):
        say(f"cache: {path.name} is damaged; its features are computed anew")
        return None
    with contextlib.suppress(OSError):  # a cache on a read-only disk is still a cache
        os.utime(path)
    return features


def store(folder: Path, name: str, features: np.ndarray, say: Callable[[str], None]) -> None:
    """Keep features; where that fails, the reason is said and nothing else happens."""
    path = folder / f"{name}.npz"
    scratch = path.with_name(f"{name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with scratch.open("wb") as file:
            np.savez(file, features=features, sha256=np.frombuffer(_checksum(features), np.uint8))
        os.replace(scratch, path)
        _trim(folder)
    except OSError as error:
        say(f"cache: {folder} cannot be written ({error.strerror}); features are not kept")
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _checksum(features: np.ndarray) -> bytes:
    head = json.dumps([features.dtype.str, features.shape]).encode()
    return hashlib.sha256(head + np.ascontiguousarray(features).tobytes()).digest()


def _trim(folder: Path) -> None:
    entries = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in entries:
        total += path.stat().st_size
        if total > BUDGET:
            path.unlink(missing_ok=True)


def save_statistics(path: Path, statistics: Statistics, conditions: Mapping[str, Any]) -> None:
    """Write reference statistics and the conditions they were made under.

    Raises:
      UserError: naming the file, when it cannot be written.
    """
    about = np.frombuffer(json.dumps({"format": _FORMAT, "conditions": conditions}).encode(), np.uint8)
    scratch = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            np.savez(file, about=about, **statistics._asdict())
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(f"--save_statistics {path}: cannot be written ({error.strerror})") from error


def load_statistics(path: Path) -> tuple[Statistics, dict[str, Any]]:
    """What `save_statistics` wrote.

    Raises:
      UserError: naming the file, when it is none of these.
    """
    content = read_npz(path)
    try:
        about = json.loads(content["about"].tobytes())
        statistics = Statistics(**{name: content[name] for name in Statistics._fields})
        fits = about["format"] == _FORMAT and statistics.factor.shape[1:] == statistics.mean.shape
    except (KeyError, ValueError, IndexError):
        fits = False
    if not fits:
        raise UserError(f"{path}: holds no reference statistics; write them with evaluate --save_statistics")
    return statistics, about["conditions"]
