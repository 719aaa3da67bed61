"""Folders of counterfactuals: what was asked and found of each image, and its arrays, whichever system made them.

    OUT/scores.json        settings, and one entry per image
    OUT/arrays/NAME.npz    image, counterfactual, control: float32 (h, w, c) in [-1, 1]

The residual is ``image - counterfactual``. Mean absolute numbers are per pixel, in shares of the full range:
``|difference| / 2``, averaged, for images span [-1, 1].
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError

SCORES, ARRAYS = "scores.json", "arrays"
FORMAT = 1
#: Of the numbers, for ``settings["units"]``.
UNITS = (
    "mean absolute numbers are per pixel, in shares of the full range of images; round_trip numbers are in units of "
    "images that span [-1, 1]"
)
_MADE_BY = "python -m medgen_jax.counterfactual"


@dataclass(frozen=True)
class Entry:
    """One image.

    Attributes:
      name: of its files, without folder or suffix.
      label, view: its class and how it was taken, where known.
      patient: whose it is, as a pseudonym, where known.
      boxes: its lesions, (x, y, width, height) in pixels of the processed image; None where nobody looked.
      source, target: what it was encoded and decoded as: ``{"label": name | None, "view": name | None}``.
      depth: how deep it was encoded, steps of noising; None for systems without noise.
      scale: of the guidance; None for systems without.
      numbers: by name, those that are known; see the module's docstring for their units.
      sha256: of the processed image's levels.
    """

    name: str
    label: str | None = None
    view: str | None = None
    patient: str | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    depth: int | None = None
    scale: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    sha256: str | None = None


class Arrays(NamedTuple):
    """Of one image, float32 (h, w, c) in [-1, 1]: itself, its counterfactual, and what came back without guidance."""

    image: np.ndarray
    counterfactual: np.ndarray
    control: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """What guidance took away, signed."""
        return self.image - self.counterfactual

    @property
    def control_residual(self) -> np.ndarray:
        """What was lost without guidance, signed."""
        return self.image - self.control

    @property
    def subtracted(self) -> np.ndarray:
        """How much more guidance changed than was lost without: not negative."""
        return np.maximum(np.abs(self.residual) - np.abs(self.control_residual), 0)


@dataclass(frozen=True)
class CounterfactualFolder:
    """A folder as it was read.

    Attributes:
      path: it.
      settings: what made it: run, checkpoint, method, steps, depth, scale, target, units and so on.
      entries: its images.
    """

    path: Path
    settings: Mapping[str, Any]
    entries: tuple[Entry, ...]

    def arrays(self, entry: Entry | str) -> Arrays:
        """The arrays of an image, by its entry or its name.

        Raises:
          UserError: a file that is missing or damaged.
        """
        return read_arrays(self.path, entry if isinstance(entry, str) else entry.name)


def read(path: str | Path) -> CounterfactualFolder:
    """A folder of counterfactuals; the arrays are read later, one image at a time.

    Raises:
      UserError: no such folder, scores that are missing, damaged or of another format, or arrays that are missing.
    """
    path = Path(path).expanduser()
    file = path / SCORES
    if not file.is_file():
        raise UserError(f"{path}: holds no {SCORES}; give a folder made by {_MADE_BY}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content.get("format")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read; make it again with {_MADE_BY}") from error
    if found != FORMAT:
        raise UserError(f"{file}: has format {found}, this program reads {FORMAT}; make it again with {_MADE_BY}")
    try:
        entries = tuple(_entry(one) for one in content["images"])
        settings = dict(content["settings"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: is damaged ({error}); make it again with {_MADE_BY}") from error
    if len({entry.name for entry in entries}) < len(entries):
        raise UserError(f"{file}: names an image twice; make it again with {_MADE_BY}")
    for entry in entries:
        if not _arrays_file(path, entry.name).is_file():
            raise UserError(f"{_arrays_file(path, entry.name)}: missing; make it again with {_MADE_BY} --overwrite")
    return CounterfactualFolder(path, settings, entries)


def read_arrays(path: str | Path, name: str) -> Arrays:
    """What `write_arrays` wrote.

    Raises:
      UserError: a file that is missing or damaged.
    """
    file = _arrays_file(Path(path).expanduser(), name)
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = Arrays(*(stored[part] for part in Arrays._fields))
        _check(arrays)
    # The reader raises nearly every type on damaged files.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file}: is missing or damaged; make it again with {_MADE_BY} --overwrite") from error
    return arrays


def read_deviation(path: str | Path, name: str) -> np.ndarray | None:
    """Of an image, (h, w, c) float32: how much its residual varies over several depths; None of one depth.

    Raises:
      UserError: a file that is missing or damaged.
    """
    read_arrays(path, name)
    with np.load(_arrays_file(Path(path).expanduser(), name), allow_pickle=False) as stored:
        return stored["deviation"] if "deviation" in stored.files else None


def write_arrays(path: str | Path, name: str, arrays: Arrays, deviation: np.ndarray | None = None) -> Path:
    """Write the arrays of one image, whole or not at all.

    Args:
      path: the folder; made when missing.
      name: of the image, one that files can have.
      arrays: finite, of one shape (h, w, c); beyond [-1, 1], they are limited to it.
      deviation: of the signed residual over several depths, (h, w, c).

    Raises:
      UserError: when the file cannot be written.
      ValueError: arrays of other shapes, or with NaN.
    """
    arrays = Arrays(*(np.clip(np.asarray(array, np.float32), -1, 1) for array in arrays))
    _check(arrays)
    file = _arrays_file(Path(path).expanduser(), name)
    more = {} if deviation is None else {"deviation": np.asarray(deviation, np.float32)}
    write_npz(file, {**arrays._asdict(), **more})
    return file


def write_npz(file: Path, fields: Mapping[str, Any]) -> None:
    """Write an .npz file, whole or not at all; its folder is made.

    Raises:
      UserError: when it cannot be written.
    """
    scratch = file.with_name(f".{uuid.uuid4().hex}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as stream:
            np.savez_compressed(stream, **fields)
        os.replace(scratch, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); check the disk and the path") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def write_scores(path: str | Path, settings: Mapping[str, Any], entries: Sequence[Entry]) -> Path:
    """Write the scores, whole or not at all; the entries of images that are not among ``entries`` stay.

    Args:
      path: the folder; made when missing.
      settings: JSON types; they replace those that were there.
      entries: new ones, and those that replace others of the same name.

    Raises:
      UserError: scores that are there and cannot be read, or when the file cannot be written.
      ValueError: a name that no file can have, or numbers that are not finite.
    """
    path = Path(path).expanduser()
    kept = {entry.name: entry for entry in read(path).entries} if (path / SCORES).is_file() else {}
    merged = {**kept, **{entry.name: entry for entry in entries}}
    for name in merged:
        _arrays_file(path, name)
    content = {"format": FORMAT, "settings": dict(settings), "images": [asdict(entry) for entry in merged.values()]}
    text = json.dumps(content, indent=1, allow_nan=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
        manifest.write_durably(path / SCORES, text + "\n")
    except OSError as error:
        raise UserError(
            f"{path / SCORES}: cannot be written ({error.strerror}); check the disk and the path"
        ) from error
    return path / SCORES


def _arrays_file(path: Path, name: str) -> Path:
    if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
        raise ValueError(f"{name!r} is no name of a file")
    return path / ARRAYS / f"{name}.npz"


def _entry(stored: Mapping[str, Any]) -> Entry:
    boxes = stored.get("boxes")
    entry = Entry(**{**stored, "boxes": None if boxes is None else tuple(tuple(map(float, box)) for box in boxes)})
    _arrays_file(Path(), entry.name)
    if any(len(box) != 4 for box in entry.boxes or ()):
        raise ValueError(f"a box of {entry.name} is no x, y, width, height")
    if not all(math.isfinite(number) for number in entry.numbers.values()):
        raise ValueError(f"a number of {entry.name} is not finite")
    return entry


def _check(arrays: Arrays) -> None:
    shapes = {np.shape(array) for array in arrays}
    if len(shapes) > 1 or len(next(iter(shapes))) != 3 or any(array.dtype != np.float32 for array in arrays):
        raise ValueError(f"arrays of shapes {sorted(shapes)}: expected float32 of one shape (h, w, c)")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("arrays hold values that are not finite")
