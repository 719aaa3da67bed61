"""What is read from an image file: levels, the physical values they stand for, and how to go between.

A *level* is an integer sample as networks get it, ``uint8`` or ``uint16``. Files of 8 or 16 bits hold
levels already; wider, signed and floating-point samples, and the greyscales of DICOM, are mapped onto
levels linearly between two declared physical values.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError

ORIENTATION = 0x0112  # EXIF and TIFF tag
_BLOCK = 1 << 20  # samples quantised at a time


class ImageHeader(NamedTuple):
    """Size of an image as `read_image` returns it: after EXIF rotation, without alpha."""

    height: int
    width: int
    channels: int
    bits: int

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array."""
        return self.height * self.width * self.channels * (self.bits // 8)

    def __str__(self) -> str:
        return f"{self.height}x{self.width} pixels, {self.channels} channel(s) of {self.bits} bits"


class Range(NamedTuple):
    """Physical values of level 0 and of the highest level; what lies between is linear.

    ``low`` exceeds ``high`` where brightness falls as the value rises (DICOM MONOCHROME1). ``unit``
    is the file's own word (``HU``), ``display`` for greyscales that are not linear, or empty.
    """

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class View:
    """How samples become levels, for files that do not hold 8 or 16 unsigned bits.

    Attributes:
      range: physical values that the lowest and the highest level shall stand for; values beyond
        are clipped. None: the range of the stored type where that is lossless (up to 16 bits), or
        for DICOM what ``window`` says.
      bits: 8 or 16 bits for samples that are mapped; None: 8 for samples of up to 8 bits, else 16.
      nan: ``refuse`` floating-point images with NaN or infinity, or map those samples to the
        ``low`` end of the range.
      window: the greyscale of DICOM files: ``file`` (VOI LUT or first window of the file, ``full``
        when it has none), ``full`` (every value that the stored bits can hold), or (centre, width)
        in physical units. Ignored when ``range`` is given.

    Raises:
      UserError: for a value outside these.
    """

    range: Range | None = None
    bits: int | None = None
    nan: str = "refuse"
    window: str | tuple[float, float] = "file"

    def __post_init__(self) -> None:
        if self.range is not None:
            _check_range(*self.range[:2])
        if self.bits not in (None, 8, 16):
            raise UserError(f"bits = {self.bits!r}: must be 8 or 16")
        if self.nan not in ("refuse", "low"):
            raise UserError(f"nan = {self.nan!r}: must be refuse or low")
        if self.window not in ("file", "full"):
            good = isinstance(self.window, tuple) and len(self.window) == 2 and all(map(_is_number, self.window))
            if not good or self.window[1] < 1:
                raise UserError(f"window = {self.window!r}: must be file, full, or (centre, width) with width >= 1")


class Described(NamedTuple):
    """What a format's ``describe`` returns.

    ``nbytes`` are the bytes that decoding holds at once, of samples as they are stored.
    """

    header: ImageHeader
    range: Range
    nbytes: int


class Source(NamedTuple):
    """A file, and what is wanted of it: ``file.tif#3`` a page, ``file.h5#stack[3]`` a plane of an array."""

    path: Path
    name: str = ""
    index: int | None = None

    @classmethod
    def parse(cls, path: str | Path) -> Source:
        """Split at the last ``#`` where the name before it is a file and the whole name is none."""
        path = Path(path)
        before, _, wanted = str(path).rpartition("#")
        if not before or os.path.exists(path) or not os.path.isfile(before):
            return cls(path)
        name, index = re.fullmatch(r"(?s)(.*?)(?:\[(\d{1,9})\])?", wanted).groups()
        return cls(Path(before), name, None if index is None else int(index))

    def __str__(self) -> str:
        plane = "" if self.index is None else f"[{self.index}]"
        return f"{self.path}#{self.name}{plane}" if self.name or plane else str(self.path)

    def number(self, count: int, what: str) -> int:
        """Which of ``count`` numbered parts is wanted.

        Raises:
          UserError: when there are several and none is chosen, or the choice is not among them.
        """
        wanted = self.index if not self.name else int(self.name) if re.fullmatch(r"[0-9]{1,9}", self.name) else -1
        parts = f"{count} {what}" + ("s" if count != 1 else "")
        if wanted is None and count != 1:
            raise UserError(
                f"{self}: holds {parts}; choose one with {self.path.name}#0 to #{count - 1}, or save one image per file"
            )
        if wanted is not None and not 0 <= wanted < count:
            raise UserError(f"{self}: holds {parts}, counted from 0; there is no such one")
        return wanted or 0


def refuse(source: Source | Path, what: str) -> UserError:
    """The error for a file whose pixels have no lossless place here."""
    return UserError(f"{source}: {what}; convert it to 8- or 16-bit grey or RGB")


def plan(source: Source, dtype: np.dtype, view: View) -> tuple[int, Range]:
    """Bits of the levels, and the range they span, for samples of a dtype.

    Raises:
      UserError: for a dtype that no declared range covers.
    """
    natural = {"uint8": (8, Range(0, 255)), "uint16": (16, Range(0, 65535))}.get(dtype.name)
    if natural and view.range is None:
        return natural
    signed = {"int8": (8, Range(-128, 127)), "int16": (16, Range(-32768, 32767))}.get(dtype.name)
    bits, span = natural or signed or (16, None)
    span = view.range or span
    if span is None:
        raise UserError(
            f"{source}: has {dtype.name} samples, whose range must be declared: set config.data.range_low and "
            "config.data.range_high to the values that shall be black and white (a run keeps those of its training)"
        )
    return view.bits or bits, span


def to_levels(source: Source, samples: np.ndarray, bits: int, span: Range, nan: str = "refuse") -> np.ndarray:
    """`quantise`, with the file named in errors; levels pass unchanged."""
    if samples.dtype == f"uint{bits}" and span[:2] == (0, _top(bits)):
        return samples
    try:
        return quantise(samples, span.low, span.high, bits, nan)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def quantise(values: np.ndarray, low: float, high: float, bits: int = 16, nan: str = "refuse") -> np.ndarray:
    """Map ``low`` to level 0 and ``high`` to the highest level, linearly, to the nearest level.

    Values beyond the two are clipped. The inverse, `dequantise`, is off by at most half a level.

    Args:
      values: real numbers, any shape.
      low, high: finite and distinct, in either order.
      bits: 8 or 16.
      nan: ``refuse``, or ``low`` to map NaN and infinities to level 0.

    Returns:
      ``uint8`` or ``uint16``, the shape of ``values``.

    Raises:
      UserError: for NaN or infinity when refused, and for an impossible range.
    """
    _check_range(low, high)
    top, scale = _top(bits), _top(bits) / (float(high) - float(low))
    levels = np.empty(values.shape, f"uint{bits}")
    source, target, strange = values.reshape(-1), levels.reshape(-1), 0
    for start in range(0, source.size, _BLOCK):
        block = source[start : start + _BLOCK].astype(np.float64)
        if values.dtype.kind == "f":
            finite = np.isfinite(block)
            strange += block.size - int(np.count_nonzero(finite))
            block[~finite] = low
        block -= low
        block *= scale
        target[start : start + _BLOCK] = np.clip(np.rint(block, out=block), 0, top, out=block)
    if strange and nan == "refuse":
        raise UserError(
            f"{strange:,} of {values.size:,} samples are NaN or infinite; mend the file, or read them "
            'as the low end of the range with nan="low"'
        )
    return levels


def dequantise(levels: np.ndarray, low: float, high: float, dtype: Any = np.float32) -> np.ndarray:
    """Physical values of ``uint8`` or ``uint16`` levels: the inverse of `quantise`."""
    top = _top(8 * levels.dtype.itemsize)
    table = low + np.arange(top + 1) * ((float(high) - float(low)) / top)
    return table.astype(dtype)[levels]


def _top(bits: int) -> int:
    return (1 << bits) - 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating, np.integer)) and math.isfinite(value)


def _check_range(low: float, high: float) -> None:
    # The quotient also refuses spans that overflow, or vanish, in double precision.
    if not (_is_number(low) and _is_number(high)) or not 0 < abs(float(high) - float(low)) < 1e300:
        raise UserError(
            f"range from {low!r} to {high!r}: must be two distinct finite numbers "
            "(config.data.range_low, config.data.range_high)"
        )


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8; anything else is upright) of an HWC array."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width of an image once `upright`."""
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def hwc(array: np.ndarray) -> np.ndarray:
    """HW or HWC as HWC."""
    return array[..., None] if array.ndim == 2 else array


def without_alpha(source: Source, array: np.ndarray) -> np.ndarray:
    """An HWC array without the last of 2 or 4 channels; grey and RGB stay as they are.

    Raises:
      UserError: when that channel is not fully opaque everywhere.
    """
    if array.shape[-1] not in (2, 4):
        return array
    if array[..., -1].min() != np.iinfo(array.dtype).max:
        raise refuse(source, "its alpha (or extra) channel is not fully opaque")
    return array[..., :-1]
