"""The index of a prepared split: all that is not an image, in one small file beside the shards.

An NPZ file without pickles. ``one/NAME`` has an entry per record; ``all/NAME`` holds the boxes of all records one
after the other, and ``number/NAME`` how many each record has. Columns are those of `prepared.PreparedTable`; the sizes
of images that differ in size are columns too (`size_of`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import is_sealed


def write(directory: Path, split: str, columns: Mapping[str, Sequence[Any]], boxes: Collection[str]) -> None:
    """Leave the columns of a split beside its shards.

    Args:
      directory: one version of a prepared set, not sealed yet.
      split: its name in the set.
      columns: name -> a number, text (bytes), size, or (n, 4) boxes per record, in the order of the records.
      boxes: names of the columns of boxes.

    Raises:
      OSError: when the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if name in boxes:
            parts = [np.asarray(value, np.float32).reshape(-1, 4) for value in values]
            arrays |= {f"all/{name}": np.concatenate(parts), f"number/{name}": np.array([len(part) for part in parts])}
        else:
            arrays[f"one/{name}"] = np.array(values)
    with _path(directory, split).open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def read(directory: Path, split: str, count: int) -> dict[str, Sequence[Any]] | None:
    """What `write` left: name -> an entry for each of ``count`` records; None where there is no index.

    A set without a seal has none either: nothing says that the file belongs to the shards.

    Raises:
      UserError: for a damaged index.
    """
    path = _path(directory, split)
    if not (path.is_file() and is_sealed(directory)):
        return None
    found: dict[str, Sequence[Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, _, name = key.partition("/")
                if kind == "one":
                    found[name] = arrays[key]
                elif kind == "all":
                    found[name] = np.split(arrays[key], np.cumsum(arrays[f"number/{name}"])[:-1])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); prepare the data set again") from error
    if any(len(values) != count for values in found.values()):
        raise UserError(f"{path}: is of another number of records than {count:,}; prepare the data set again")
    return found


def size_of(image: str) -> str:
    """The column of an image column's sizes (height, width, channels)."""
    return f"{image}/size"


def _path(directory: Path, split: str) -> Path:
    return directory / f"index-{split}.npz"
