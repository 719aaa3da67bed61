"""Strips and tiles of a TIFF page (TIFF 6.0, sections 3, 7, 13 to 15) as one array.

Every codec here packs bytes without knowing samples, so all sample types share one way: unpack, at
most to the size that the tags promise; undo the predictor; put the segment in its place.
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from medgen_jax.data.formats import budget

_PLAIN, _DEFLATE = 1, (8, 32946)
#: Codecs of bytes: none, LZW, deflate (two numbers), PackBits, LZMA, Zstandard.
CODECS = (_PLAIN, 5, *_DEFLATE, 32773, 34925, 50000)
#: None, horizontal differences, floating point (Technical Note 3).
PREDICTORS = (1, 2, 3)


class Grid(NamedTuple):
    """How a page is cut: ``planes`` x ``down`` x ``across`` segments of (height, width, samples)."""

    planes: int
    down: int
    across: int
    height: int
    width: int
    samples: int


def grid(page: Any) -> Grid:
    """The cut of a page; ``page`` is a tifffile page."""
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    samples = page.samplesperpixel // planes
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
    else:
        height, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
    if min(height, width, page.imagelength, page.imagewidth) < 1:
        raise ValueError("its strips or tiles have no pixels")
    down, across = math.ceil(page.imagelength / height), math.ceil(page.imagewidth / width)
    return Grid(planes, down, across, height, width, samples)


def nbytes(page: Any, dtype: np.dtype) -> int:
    """Bytes of one unpacked segment."""
    cut = grid(page)
    return cut.height * cut.width * cut.samples * dtype.itemsize


def read(stream: BinaryIO, page: Any, dtype: np.dtype) -> np.ndarray:
    """All samples of a page, HWC, in native byte order.

    Raises:
      ValueError: for segments that are missing, or shorter than the tags promise.
    """
    cut = grid(page)
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    wanted = cut.planes * cut.down * cut.across
    if len(places) < wanted:
        raise ValueError(f"{wanted} strips or tiles are needed, the file lists {len(places)}")
    image = np.empty((page.imagelength, page.imagewidth, page.samplesperpixel), dtype)
    stored = dtype.newbyteorder(page.parent.byteorder)
    for number, (offset, count) in enumerate(places[:wanted]):
        plane, place = divmod(number, cut.down * cut.across)
        top, left = (at * size for at, size in zip(divmod(place, cut.across), (cut.height, cut.width), strict=True))
        # The last strip ends with the image; tiles are always whole.
        rows = cut.height if page.is_tiled else min(cut.height, page.imagelength - top)
        segment = _segment(stream, page, (rows, cut.width, cut.samples), stored, offset, count)
        target = image[top : top + cut.height, left : left + cut.width, plane * cut.samples :][..., : cut.samples]
        target[...] = segment[: target.shape[0], : target.shape[1]]
    return image


def _segment(
    stream: BinaryIO, page: Any, shape: tuple[int, int, int], stored: np.dtype, offset: int, count: int
) -> np.ndarray:
    size = math.prod(shape) * stored.itemsize
    if page.compression == _PLAIN:
        data = budget.read_at(stream, offset, size)
    else:
        packed = budget.read_at(stream, offset, count)
        data = _unpacked(packed, page.compression, shape[0], size)
    if len(data) != size:
        raise ValueError(f"a strip or tile gives {len(data):,} bytes instead of {size:,}")
    if page.predictor == 3:
        return _float_predicted(data, shape, stored.itemsize).astype(stored.newbyteorder("="))
    samples = np.frombuffer(data, stored).reshape(shape).astype(stored.newbyteorder("="))
    return _summed(samples) if page.predictor == 2 else samples


def _unpacked(packed: bytes, codec: int, rows: int, size: int) -> bytes:
    """At most ``size`` bytes of a packed segment of ``rows`` rows."""
    if codec in _DEFLATE:
        return budget.inflate(packed, size)
    return TiffImagePlugin.TiffImageFile(io.BytesIO(_as_grey_tiff(packed, codec, rows, size // rows))).tobytes()


def _as_grey_tiff(packed: bytes, codec: int, rows: int, columns: int) -> bytes:
    """The same packed bytes as the only strip of an 8-bit grey TIFF, which libtiff unpacks, bounded by its size."""
    tags = {256: columns, 257: rows, 258: 8, 259: codec, 262: 1, 273: 0, 277: 1, 278: rows, 279: len(packed)}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = start
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed


def _summed(samples: np.ndarray) -> np.ndarray:
    """Undo predictor 2: each sample is the difference to its left neighbour, modulo its width."""
    whole = samples.view(f"u{samples.dtype.itemsize}")
    return np.add.accumulate(whole, axis=1, dtype=whole.dtype).view(samples.dtype)


def _float_predicted(data: bytes, shape: tuple[int, int, int], width: int) -> np.ndarray:
    """Undo predictor 3: rows of bytes, highest bytes of all samples first, as byte differences."""
    rows, columns, samples = shape
    differences = np.frombuffer(data, np.uint8).reshape(rows, width * columns, samples)
    parts = np.add.accumulate(differences, axis=1, dtype=np.uint8).reshape(rows, width, columns * samples)
    return np.ascontiguousarray(parts.swapaxes(1, 2)).view(f">f{width}").reshape(shape)
