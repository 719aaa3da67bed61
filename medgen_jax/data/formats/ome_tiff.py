"""Pyramidal OME-TIFF, written while the rows of the image arrive, in bounded memory.

Every level is cut into tiles of `TILE` pixels and has half the side of the one before it, until the
longer side is at most `SMALLEST`. A level holds one row of tiles and passes on its 2 x 2 means when that
row is written, so all levels grow at once and nothing is read back. Directories come last, when the
tiles' places are known: the levels are sub-directories of the first (OME-TIFF 6.0) and also a plain
chain of reduced images, which is where OpenSlide and other readers of tiled TIFF look.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import tiff_directory
from medgen_jax.data.formats.tiff_directory import ASCII, LONG, LONG8, RATIONAL, SHORT

TILE = 256
SMALLEST = 512
#: How pixels are packed -> bytes of the file per byte of stained tissue, as found on real slides and rounded up.
COMPRESSIONS = {"deflate": 0.8, "jpeg": 0.25}
_QUALITY = 90
_ZLIB_LEVEL = 6
_CLASSIC_LIMIT = (1 << 32) - (1 << 26)
_LEVELS_SHARE = 4 / 3  # 1 + 1/4 + 1/16 + ...


@dataclass(frozen=True)
class About:
    """What the file says of its pixels.

    Attributes:
      description: text for people.
      software: program and version.
      microns_per_pixel: down and across; None when unknown.
    """

    description: str
    software: str
    microns_per_pixel: tuple[float, float] | None = None


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of every level, the full one first."""
    sizes = [(height, width)]
    while max(sizes[-1]) > SMALLEST:
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    return sizes


def estimate(height: int, width: int, channels: int, compression: str, share: float = 1.0) -> int:
    """Bytes that such a file is likely to take when ``share`` of its area is no blank background."""
    blank = 0.01
    return int(height * width * channels * _LEVELS_SHARE * (share * COMPRESSIONS[compression] + blank)) + (1 << 20)


@contextlib.contextmanager
def create(
    path: Path, height: int, width: int, channels: int, about: About, compression: str = "deflate"
) -> Iterator[Pyramid]:
    """A file to whose `Pyramid.write` the rows are given; it appears when all of them are there, or not at all.

    Args:
      path: replaced if it exists.
      height, width: pixels.
      channels: 1 or 3, of 8 bits.
      about: metadata.
      compression: ``deflate`` keeps every value; ``jpeg`` has quality 90 and colour in full resolution.

    Raises:
      UserError: for a place that cannot be written, or a disk that fills up.
      ValueError: for other channels or another compression; for too few or too many rows.
    """
    if channels not in (1, 3) or compression not in COMPRESSIONS or min(height, width) < 1:
        raise ValueError(f"{height} x {width} pixels, {channels} channels, {compression}: cannot be written")
    scratch = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with scratch.open("xb") as stream:
            pyramid = Pyramid(stream, height, width, channels, about, compression)
            yield pyramid
            pyramid.finish()
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


@dataclass
class _Level:
    """One level while it grows: a row of tiles being filled, and the places of the tiles written."""

    height: int
    width: int
    band: np.ndarray
    filled: int = 0
    received: int = 0
    offsets: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class Pyramid:
    """All levels of one image; made by `create`.

    Attributes:
      smallest: the last level, (h, w, c) uint8, complete once the file is.
    """

    def __init__(
        self, stream: BinaryIO, height: int, width: int, channels: int, about: About, compression: str
    ) -> None:
        self._stream, self._channels, self._about = stream, channels, about
        self._jpeg = compression == "jpeg"
        self._levels = [_Level(h, w, np.empty((TILE, w, channels), np.uint8)) for h, w in level_sizes(height, width)]
        last = self._levels[-1]
        self.smallest = np.empty((last.height, last.width, channels), np.uint8)
        self._big = height * width * channels * _LEVELS_SHARE > _CLASSIC_LIMIT
        stream.write(tiff_directory.header(0, self._big))

    def write(self, rows: np.ndarray) -> None:
        """The next rows of the image, (n, width, c) uint8, any number of them."""
        full = self._levels[0]
        if rows.dtype != np.uint8 or rows.shape[1:] != full.band.shape[1:] or full.received + len(rows) > full.height:
            raise ValueError(f"rows {rows.dtype} {rows.shape} do not continue {full.received} of {full.height}")
        self._push(0, rows)

    def finish(self) -> None:
        """Write what is left of every level, and the directories.

        Raises:
          ValueError: when rows are missing.
        """
        if self._levels[0].received < self._levels[0].height:
            raise ValueError(f"{self._levels[0].received} of {self._levels[0].height} rows were written")
        for number, level in enumerate(self._levels):
            if level.filled:
                self._emit(number)
        self._write_directories()

    def _push(self, number: int, rows: np.ndarray) -> None:
        level = self._levels[number]
        if number == len(self._levels) - 1:
            self.smallest[level.received : level.received + len(rows)] = rows
        level.received += len(rows)
        while len(rows):
            taken = min(len(rows), TILE - level.filled)
            level.band[level.filled : level.filled + taken] = rows[:taken]
            level.filled, rows = level.filled + taken, rows[taken:]
            if level.filled == TILE:
                self._emit(number)

    def _emit(self, number: int) -> None:
        """Write the row of tiles that a level holds, and hand its 2 x 2 means to the next one."""
        level = self._levels[number]
        band, level.filled = level.band[: level.filled], 0
        for left in range(0, level.width, TILE):
            part = band[:, left : left + TILE]
            tile = np.pad(part, ((0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)), mode="edge")
            packed = _as_jpeg(tile) if self._jpeg else _deflated(tile)
            level.offsets.append(self._stream.tell())
            level.counts.append(len(packed))
            self._stream.write(packed)
        if number + 1 < len(self._levels):
            self._push(number + 1, halved(band))

    def _write_directories(self) -> None:
        """Smallest level first: each directory then knows where the next one is."""
        places: list[int] = []
        for number, level in reversed(list(enumerate(self._levels))):
            start = self._stream.seek(0, os.SEEK_END)
            start += self._stream.write(bytes(start % 2))
            tags = self._tags(level)
            if number == 0:
                tags |= {270: (ASCII, _text(self._ome_xml())), 305: (ASCII, _text(self._about.software))}
                tags |= {330: (self._offset_type, places[::-1])} if places else {}
            following = places[-1] if places else 0
            self._stream.write(tiff_directory.pack(tags, start, following, self._big))
            places.append(start)
        self._stream.seek(0)
        self._stream.write(tiff_directory.header(places[-1], self._big))

    @property
    def _offset_type(self) -> tuple[int, str]:
        return LONG8 if self._big else LONG

    def _tags(self, level: _Level) -> dict[int, tuple[tuple[int, str], bytes | list[int]]]:
        full, colour = self._levels[0], self._channels == 3
        tags = {
            254: (LONG, [0 if level is full else 1]),  # a reduced image
            256: (LONG, [level.width]),
            257: (LONG, [level.height]),
            258: (SHORT, [8] * self._channels),
            259: (SHORT, [7 if self._jpeg else 8]),
            262: (SHORT, [(6 if self._jpeg else 2) if colour else 1]),  # YCbCr, RGB, grey
            277: (SHORT, [self._channels]),
            284: (SHORT, [1]),  # samples interleaved
            322: (LONG, [TILE]),
            323: (LONG, [TILE]),
            324: (self._offset_type, level.offsets),
            325: (LONG, level.counts),
        }
        if not self._jpeg:
            tags[317] = SHORT, [2]  # horizontal differences
        elif colour:
            tags[530] = SHORT, [1, 1]  # chroma in full resolution
        if self._about.microns_per_pixel:
            down, across = self._about.microns_per_pixel
            tags[282] = RATIONAL, _per_centimetre(across * full.width / level.width)
            tags[283] = RATIONAL, _per_centimetre(down * full.height / level.height)
            tags[296] = SHORT, [3]  # centimetres
        return tags

    def _ome_xml(self) -> str:
        """OME data model 2016-06; lengths are in micrometres, its default unit."""
        full, scale = self._levels[0], ""
        if self._about.microns_per_pixel:
            down, across = self._about.microns_per_pixel
            scale = f' PhysicalSizeX="{across:.9g}" PhysicalSizeY="{down:.9g}"'
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
            ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation='
            '"http://www.openmicroscopy.org/Schemas/OME/2016-06'
            ' http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd"'
            f" Creator={quoteattr(self._about.software)}>"
            f'<Image ID="Image:0" Name="synthetic"><Description>{escape(self._about.description)}</Description>'
            '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" BigEndian="false" Interleaved="true"'
            f' SizeX="{full.width}" SizeY="{full.height}" SizeZ="1" SizeC="{self._channels}" SizeT="1"{scale}>'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="{self._channels}"/><TiffData IFD="0" PlaneCount="1"/>'
            "</Pixels></Image></OME>"
        )


def halved(image: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 pixels, rounded; an odd last row or column is repeated. (h, w, c) uint8."""
    image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
    total = image[0::2, 0::2].astype(np.uint16) + image[0::2, 1::2] + image[1::2, 0::2] + image[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _deflated(tile: np.ndarray) -> bytes:
    """Differences to the left neighbour, modulo 256, as a zlib stream."""
    differences = tile.copy()
    differences[:, 1:] -= tile[:, :-1]
    return zlib.compress(differences.tobytes(), _ZLIB_LEVEL)


def _as_jpeg(tile: np.ndarray) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(tile[..., 0] if tile.shape[-1] == 1 else tile)
    image.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _per_centimetre(microns: float) -> list[int]:
    ratio = Fraction(1e4 / microns).limit_denominator(10_000)
    return [ratio.numerator, ratio.denominator]
