"""Stacks of frames of an LED microscope, one per LED, from whatever they were saved in.

MAT (all versions), HDF5 (PtyLab's ``ptychogram`` included), NPZ, NPY, TIFF of many pages, and folders of
TIFF or PNG frames in natural order (``frame_2`` before ``frame_10``). Only headers are read when a stack is
opened; of HDF5, any part of the frames is then read alone. Samples of 8 and 16 unsigned bits stay what they are,
everything else becomes float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import tifffile

from medgen_jax.core.errors import UserError
from medgen_jax.data import images
from medgen_jax.data.formats import budget, hdf5, matlab

_IMAGES, _TIFF, _ARRAYS = (".tif", ".tiff", ".png"), (".tif", ".tiff"), (".mat", ".h5", ".hdf5", ".npz", ".npy")
#: Endings of files that may hold a stack.
SUFFIXES = (*_ARRAYS, *_TIFF)
#: Names under which frames are taken without being asked for, where a file holds several stacks.
_USUAL = ("ptychogram",)
_FIRST, _LAST = "first", "last"
AXES = (_FIRST, _LAST)
#: Bytes of a band of rows.
_BAND_BYTES = 1 << 27
#: Share of saturated pixels of the brightest frame that is worth a word, and that nothing can be made of.
_MUCH, _TOO_MUCH = 0.01, 0.5

Read = Callable[[slice, slice], np.ndarray]


@dataclass(frozen=True)
class LedStack:
    """An opened stack.

    Attributes:
      label: file and field, for messages.
      frames, height, width: frames are in the order in which they were saved.
      dtype: uint8, uint16 or float32.
      part: ``part(rows, columns)`` reads these rows and columns of all frames.
    """

    label: str
    frames: int
    height: int
    width: int
    dtype: np.dtype
    part: Read

    @property
    def nbytes(self) -> int:
        """Bytes of all frames."""
        return self.frames * self.height * self.width * self.dtype.itemsize

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Part of all frames.

        Args:
          rows, columns: of each frame; without a step.

        Returns:
          (frames, h, w) of ``dtype``.

        Raises:
          UserError: the file cannot be read.
        """
        with _naming(self.label):
            return np.ascontiguousarray(self.part(rows, columns)).astype(self.dtype, copy=False)

    def bands(self) -> Iterator[np.ndarray]:
        """All frames, (frames, h, width) a few rows at a time, so that memory stays bounded."""
        step = max(1, _BAND_BYTES // max(1, self.frames * self.width * self.dtype.itemsize))
        return (self.read(slice(top, top + step)) for top in range(0, self.height, step))

    def frame(self, number: int) -> np.ndarray:
        """One frame, (height, width)."""
        return np.concatenate([band[number] for band in self.bands()])

    def held(self) -> LedStack:
        """The same stack, all of it in memory."""
        whole = self.read()
        return dataclasses.replace(self, part=lambda rows, columns: whole[:, rows, columns])


class Survey(NamedTuple):
    """What a look at all frames says.

    Attributes:
      means: (frames,) float64.
      saturated: (frames,) share of pixels at the ceiling.
      notes: sentences about what is odd but can be gone on with.
    """

    means: np.ndarray
    saturated: np.ndarray
    notes: tuple[str, ...]


def open_stack(path: str | Path, field: str = "", axis: str = "", count: int | None = None) -> LedStack:
    """Find the frames of a file or folder; no pixel is read yet.

    Args:
      path: see above.
      field: name of the array. Empty: the only one with three axes, or PtyLab's.
      axis: ``first`` or ``last``, along which frames are counted. Empty: the one of ``count``
        entries; where that does not decide, the last of a MAT file and the first of others.
      count: of the LEDs, if known.

    Raises:
      UserError: there is no such file or field, it holds no stack, or no frames.
    """
    path = Path(path).expanduser()
    if axis and axis not in AXES:
        raise UserError(f"axis = {axis!r}: expected {' or '.join(AXES)}, the axis along which frames are counted")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    with _naming(str(path)):
        if path.is_dir() or path.suffix.lower() in _TIFF:
            if field:
                raise UserError(f"{path}: images have no field {field!r}; leave the field out")
            stack = _folder(path) if path.is_dir() else _pages(path)
        elif path.suffix.lower() in _ARRAYS or hdf5.is_hdf5(path):
            stack = _array(path, field, axis, count)
        else:
            known = ", ".join(SUFFIXES)
            raise UserError(f"{path}: no stack; expected a folder of images, or one of {known}")
    if not stack.frames:
        raise UserError(f"{stack.label}: there are no frames")
    return stack


def read_numbers(path: str | Path, field: str) -> np.ndarray:
    """Numbers beside the frames of an array file, such as a wavelength or positions of LEDs.

    Returns:
      float64, as many axes as the field has.

    Raises:
      UserError: there is no such field, or it holds no real numbers.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix.lower() not in _ARRAYS:
        raise UserError(f"{path}: has no fields; only {', '.join(_ARRAYS)} hold field {field!r}")
    with _naming(str(path)):
        entry = _named(path, field, _entries(path))
        if entry.dtype is None or entry.dtype.kind not in "biuf":
            raise UserError(f"{path}: field {field!r} holds no real numbers")
        return np.asarray(images.read_array(f"{path}#{field}"), np.float64)


def survey(stack: LedStack, saturation: float | None = None) -> Survey:
    """Look at every pixel once, a band of rows at a time.

    Args:
      stack: an opened one.
      saturation: value from which a pixel is saturated. None: none; the highest value of 8 and 16 bits is still
        worth a note.

    Raises:
      UserError: values that are negative or not finite, frames that are all dark, a brightest frame that is mostly
        saturated.
    """
    ceiling = saturation
    if ceiling is None and stack.dtype.kind == "u":
        ceiling = float(np.iinfo(stack.dtype).max)
    sums, high = np.zeros(stack.frames), np.zeros(stack.frames)
    for band in stack.bands():
        if stack.dtype.kind == "f" and not (np.isfinite(band).all() and (band >= 0).all()):
            frame = int(np.argmin((np.isfinite(band) & (band >= 0)).all(axis=(1, 2))))
            raise UserError(
                f"{stack.label}: frame {frame} (counted from 0) holds values that are negative or not finite; "
                "counts cannot be, add or clip the offset"
            )
        sums += band.sum(axis=(1, 2), dtype=np.float64)
        high += 0 if ceiling is None else (band >= ceiling).sum(axis=(1, 2))
    pixels = stack.height * stack.width
    means, saturated = sums / pixels, high / pixels
    if not means.any():
        raise UserError(f"{stack.label}: all frames are dark; check the file and its scale")
    return Survey(means, saturated, _saturation_notes(stack, means, saturated, saturation, ceiling))


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Key that sorts numbers inside of names by value, and without regard to case."""
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)


def _saturation_notes(
    stack: LedStack, means: np.ndarray, shares: np.ndarray, given: float | None, ceiling: float | None
) -> tuple[str, ...]:
    brightest = int(np.argmax(means))
    share = float(shares[brightest])
    if share > _TOO_MUCH:
        raise UserError(
            f"{stack.label}: {share:.0%} of the pixels of the brightest frame, {brightest} (counted from 0), are "
            f"saturated (at or above {ceiling:g}); expose it shorter, or mend stack.saturation"
        )
    if share <= _MUCH:
        return ()
    remedy = "they do not count" if given is not None else f"set stack.saturation to {ceiling:g} to leave them out"
    return (f"{share:.1%} of the pixels of frame {brightest} (counted from 0) are saturated: {remedy}",)


@contextlib.contextmanager
def _naming(label: str) -> Iterator[None]:
    """Turn whatever a library raises on a bad file into one message that names it."""
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{label}: may not be read; check its permissions") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{label}: cannot be read as a stack ({reason}); save it again") from error


# ---- arrays in files -----------------------------------------------------------------------------


class _Entry(NamedTuple):
    """An array of a file: as MATLAB shows it where MATLAB has written it. ``dtype`` None: no numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None

    def __str__(self) -> str:
        kind = "no numbers" if self.dtype is None else self.dtype.name
        return f"{self.name or 'the array'} ({'x'.join(map(str, self.shape)) or 'scalar'} {kind})"


def _entries(path: Path) -> list[_Entry]:
    """What an array file holds, from its headers."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with path.open("rb") as stream:
            return [_npy_entry("", stream)]
    if suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            found = []
            for info in archive.infolist():
                with archive.open(info) as stream:
                    found.append(_npy_entry(info.filename.removesuffix(".npy"), stream))
            return found
    with (hdf5.opened if hdf5.is_hdf5(path) else matlab.opened)(path) as variables:
        return [_Entry(v.name, tuple(v.shape), v.dtype) for v in variables]


def _npy_entry(name: str, stream: object) -> _Entry:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return _Entry(name, shape, None if dtype.hasobject else dtype)


def _array(path: Path, field: str, axis: str, count: int | None) -> LedStack:
    entry = _chosen(path, field, _entries(path))
    label = f"{path}#{entry.name}" if entry.name else str(path)
    if entry.dtype is None or entry.dtype.kind not in "uif":
        raise UserError(f"{label}: frames must be real numbers, this is {entry}")
    last = _frames_last(path, entry.shape, axis, count)
    frames, height, width = (entry.shape[-1], *entry.shape[:2]) if last else entry.shape
    nbytes = math.prod(entry.shape) * entry.dtype.itemsize
    lazy = path.suffix.lower() not in (".npy", ".npz") and hdf5.is_hdf5(path)
    if not lazy:
        budget.check(path, entry, nbytes, budget.MAX_ARRAY_BYTES)
    part = _hdf5_part(path, entry.name, last) if lazy else _whole_part(label, last)
    return LedStack(label, frames, height, width, _kept(entry.dtype), part)


def _chosen(path: Path, field: str, entries: Sequence[_Entry]) -> _Entry:
    if field:
        entry = _named(path, field, entries)
        if len(entry.shape) != 3:
            raise UserError(f"{path}: {entry} has {len(entry.shape)} axes; a stack has three")
        return entry
    stacks = [e for e in entries if len(e.shape) == 3 and e.dtype is not None]
    usual = [e for e in stacks if e.name.rpartition("/")[2] in _USUAL]
    for choice in (stacks, usual):
        if len(choice) == 1:
            return choice[0]
    if not stacks:
        raise UserError(f"{path}: holds no array of three axes; it holds {_list(entries)}")
    raise UserError(f"{path}: holds several stacks, name one in stack.field: {_list(stacks)}")


def _named(path: Path, field: str, entries: Sequence[_Entry]) -> _Entry:
    for entry in entries:
        if entry.name == field.strip("/"):
            return entry
    raise UserError(f"{path}: there is no field {field!r}; the file holds {_list(entries)}")


def _list(entries: Sequence[_Entry]) -> str:
    """The largest first."""
    shown = [str(e) for e in sorted(entries, key=lambda e: -math.prod(e.shape))[:8]]
    return ", ".join(shown + ["..."] * (len(entries) > 8)) or "nothing"


def _frames_last(path: Path, shape: tuple[int, ...], axis: str, count: int | None) -> bool:
    if axis:
        return axis == _LAST
    fits = [n == count for n in (shape[0], shape[-1])]
    return fits[1] if any(fits) and not all(fits) else path.suffix.lower() == ".mat"


def _kept(dtype: np.dtype) -> np.dtype:
    small = dtype.kind == "u" and dtype.itemsize <= 2
    return np.dtype(f"uint{8 * dtype.itemsize}") if small else np.dtype(np.float32)


def _whole_part(label: str, last: bool) -> Read:
    def part(rows: slice, columns: slice) -> np.ndarray:
        array = images.read_array(label)
        return (np.moveaxis(array, -1, 0) if last else array)[:, rows, columns]

    return part


def _hdf5_part(path: Path, name: str, last: bool) -> Read:
    with path.open("rb") as stream:
        reversed_axes = stream.read(10) == b"MATLAB 7.3"

    def part(rows: slice, columns: slice) -> np.ndarray:
        wanted = (rows, columns, slice(None)) if last else (slice(None), rows, columns)
        with h5py.File(path, "r") as file:
            data = file[name]
            if data.chunks is not None:
                size = math.prod(data.chunks) * data.dtype.itemsize
                budget.check(path, f"chunks of {data.chunks}", size)
            shape = data.shape[::-1] if reversed_axes else data.shape
            held = math.prod(len(range(*s.indices(n))) for s, n in zip(wanted, shape, strict=True))
            budget.check(path, f"{held:,} samples", held * data.dtype.itemsize, budget.MAX_ARRAY_BYTES)
            array = data[wanted[::-1]].T if reversed_axes else data[wanted]
        return np.moveaxis(array, -1, 0) if last else array

    return part


# ---- images --------------------------------------------------------------------------------------


def _folder(path: Path) -> LedStack:
    found = [p for p in path.iterdir() if p.suffix.lower() in _IMAGES and not p.name.startswith(".")]
    files = sorted(found, key=lambda p: natural_key(p.name))
    if not files:
        raise UserError(f"{path}: holds no {', '.join(_IMAGES)} files")
    headers = [images.read_header(file) for file in files]
    for file, header in zip(files, headers, strict=True):
        if header.channels != 1:
            raise UserError(f"{file}: has {header.channels} channels; frames have one, save the channel that is lit")
        if header != headers[0]:
            raise UserError(f"{file}: has {header}, the first frame, {files[0].name}, has {headers[0]}")
    first = headers[0]

    def part(rows: slice, columns: slice) -> np.ndarray:
        return np.stack([images.read_image(file)[rows, columns, 0] for file in files])

    return LedStack(str(path), len(files), first.height, first.width, np.dtype(f"uint{first.bits}"), part)


def _pages(path: Path) -> LedStack:
    with tifffile.TiffFile(path) as tiff:
        pages = tiff.pages
        shape, dtype, count = pages[0].shape, pages[0].dtype, len(pages)
        if len(shape) != 2 or dtype is None or dtype.kind not in "uif":
            raise UserError(f"{path}: pages of shape {shape}; frames are grey, one per page")
        odd = [number for number, page in enumerate(pages) if page.shape != shape or page.dtype != dtype]
    if count < 2:
        raise UserError(f"{path}: is one image; a stack is a TIFF of many pages, or a folder with one file per LED")
    if odd:
        raise UserError(f"{path}: page {odd[0]} (counted from 0) has another size or type than the first")
    budget.check(path, f"{count} pages", count * math.prod(shape) * dtype.itemsize, budget.MAX_ARRAY_BYTES)

    def part(rows: slice, columns: slice) -> np.ndarray:
        with tifffile.TiffFile(path) as tiff:
            return np.stack([page.asarray()[rows, columns] for page in tiff.pages])

    return LedStack(str(path), count, *shape, _kept(dtype), part)
