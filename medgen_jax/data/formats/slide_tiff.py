"""Slides in tiled TIFF: generic pyramids, OME-TIFF and, where OpenSlide is absent, Aperio SVS.

Directories are read by tifffile, which needs no codecs for that. A tile is decoded by libtiff, inside
Pillow, as the only strip of a TIFF made for it: so all codecs that libtiff knows are read in one way,
and none writes beyond the size of a tile.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import TiffImagePlugin

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import budget, tiff_directory
from medgen_jax.data.formats.slide import Size, Slide, check_size, naming, scale
from medgen_jax.data.formats.tiff_directory import LONG, SHORT, UNDEFINED

#: Decoded tiles that are kept, as neighbouring regions share them.
_CACHE_BYTES = 1 << 26
#: Directories that are looked at.
_MANY = 64
_RGB, _YCBCR = 2, 6
_TABLES, _SUBSAMPLING, _ORIENTATION, _PROFILE = 347, 530, 274, 34675
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_MICRONS_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # inch, centimetre


def is_too_large(path: Path) -> bool:
    """Whether a file is a slide beyond the `budget` of images that are decoded whole; False for any other file."""
    try:
        with TiffSlide(path) as slide:
            height, width = slide.levels[0]
    except UserError:
        return False
    try:
        budget.check(path, "its pixels", 3 * height * width)
    except UserError:
        return True
    return False


class TiffSlide(Slide):
    """A slide in tiled TIFF.

    Raises:
      UserError: when the first image of the file is not tiled 8-bit RGB that libtiff reads, or data are missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with naming(path):
            self._tiff = tifffile.TiffFile(path)
        try:
            with naming(path):
                self._pages = list(_levels(path, self._tiff))
                self.levels = tuple(_size(page) for page in self._pages)
                check_size(path, self.levels)
                self.microns_per_pixel = _microns(self._pages[0])
                self.has_profile = _PROFILE in self._pages[0].tags
        except BaseException:
            self.close()
            raise
        bytes_each = max(3 * page.tilelength * page.tilewidth for page in self._pages)
        self._tile = functools.lru_cache(max(4, _CACHE_BYTES // bytes_each))(self._decode)

    def region(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """See `Slide.region`."""
        page = self._pages[level]
        high, wide = page.tilelength, page.tilewidth
        made = np.empty((height, width, 3), np.uint8)
        rows = range(top // high, math.ceil((top + height) / high))
        columns = range(left // wide, math.ceil((left + width) / wide))
        for row, column in itertools.product(rows, columns):
            # Where the tile begins in the region; negative where the region begins inside the tile.
            y, x = row * high - top, column * wide - left
            target = made[max(y, 0) : y + high, max(x, 0) : x + wide]
            with naming(self.path):
                tile = self._tile(level, row, column)
            target[...] = tile[max(-y, 0) :, max(-x, 0) :][: target.shape[0], : target.shape[1]]
        return made

    def close(self) -> None:
        """See `Slide.close`."""
        self._tiff.close()

    def _decode(self, level: int, row: int, column: int) -> np.ndarray:
        page = self._pages[level]
        number = row * math.ceil(page.imagewidth / page.tilewidth) + column
        count = page.databytecounts[number]
        if count == 0:  # never scanned
            return np.full((page.tilelength, page.tilewidth, 3), 255, np.uint8)
        packed = budget.read_at(self._tiff.filehandle, page.dataoffsets[number], count)
        with TiffImagePlugin.TiffImageFile(io.BytesIO(_as_file(page, packed))) as image:
            tile = np.asarray(image.convert("RGB"))
        return tile


def _as_file(page: Any, packed: bytes) -> bytes:
    """A tile as a TIFF of its own, whose only strip it is."""
    tags = {
        256: (LONG, [page.tilewidth]),
        257: (LONG, [page.tilelength]),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, [int(page.compression)]),
        262: (SHORT, [int(page.photometric)]),
        273: (LONG, [0]),
        277: (SHORT, [3]),
        278: (LONG, [page.tilelength]),
        279: (LONG, [len(packed)]),
        284: (SHORT, [1]),
    }
    if page.predictor != 1:
        tags[317] = SHORT, [page.predictor]
    if page.jpegtables is not None:
        tags[_TABLES] = UNDEFINED, page.jpegtables
    if page.photometric == _YCBCR:
        tags[_SUBSAMPLING] = SHORT, list(page.tags.valueof(_SUBSAMPLING, (2, 2)))
    start = 8
    length = len(tiff_directory.pack(tags, start, 0, big=False))
    tags[273] = LONG, [start + length]
    return tiff_directory.header(start, big=False) + tiff_directory.pack(tags, start, 0, big=False) + packed


def _levels(path: Path, tiff: tifffile.TiffFile) -> Iterator[Any]:
    """The full page and the smaller tiled images of the same shape, as sub-directories or as further pages."""
    if len(tiff.pages) == 0:
        raise UserError(f"{path}: is truncated or holds no image; copy it again")
    full = tiff.pages[0]
    _check(path, full)
    yield full
    others = full.pages if full.subifds else itertools.islice(tiff.pages, 1, _MANY)
    last = full
    for page in itertools.islice(others, _MANY):
        if _is_level(page, full, last):
            _check(path, page)
            yield page
            last = page


def _size(page: Any) -> Size:
    return Size(page.imagelength, page.imagewidth)


def _is_level(page: Any, full: Any, last: Any) -> bool:
    """Whether a page shows what the full one shows, smaller than the level before it."""
    if not page.is_tiled or not 1 <= page.imagelength < last.imagelength or not 1 <= page.imagewidth < last.imagewidth:
        return False
    down, across = full.imagelength / page.imagelength, full.imagewidth / page.imagewidth
    # Sides are whole pixels, rounded either way.
    return abs(down / across - 1) <= 1 / page.imagelength + 1 / page.imagewidth


def _check(path: Path, page: Any) -> None:
    """Refuse, from its tags alone, a page that cannot be read tile by tile."""
    if not page.is_tiled or min(*_size(page), page.tilelength, page.tilewidth) < 1:
        raise UserError(f"{path}: is no tiled TIFF and too large, or no picture; save it as pyramidal tiled TIFF")
    layout = page.samplesperpixel, page.bitspersample, page.planarconfig, page.imagedepth
    if layout != (3, 8, 1, 1) or page.sampleformat != 1 or page.photometric not in (_RGB, _YCBCR):
        raise UserError(f"{path}: slides are 8-bit RGB with interleaved samples, this is not; convert it")
    if page.predictor not in (1, 2) or page.fillorder != 1 or page.tags.valueof(_ORIENTATION, 1) != 1:
        raise UserError(f"{path}: its predictor, bit order or orientation is not read here; save it again")
    if page.compression not in TiffImagePlugin.COMPRESSION_INFO:
        codec = getattr(page.compression, "name", page.compression)
        raise UserError(
            f"{path}: its compression ({codec}) needs OpenSlide or another codec; pip install 'medgen_jax[wsi]', "
            "or save it with JPEG or deflate"
        )
    budget.check(path, "its tiles", 3 * page.tilelength * page.tilewidth, budget.FREE_BYTES)
    tiles = math.ceil(page.imagelength / page.tilelength) * math.ceil(page.imagewidth / page.tilewidth)
    ends = np.add(page.dataoffsets, page.databytecounts, dtype=np.float64)
    if len(page.dataoffsets) != tiles or len(page.databytecounts) != tiles or ends.max() > path.stat().st_size:
        raise UserError(f"{path}: is truncated, tiles that it lists are missing; copy it again")


def _microns(page: Any) -> tuple[float, float] | None:
    """Micrometres per pixel: of OME-XML, of Aperio's description, or of the resolution tags, in that order."""
    text = page.description if isinstance(page.description, str) else ""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    aperio = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", text)
    if pixels and "PhysicalSizeX" in pixels[0]:
        return scale(_ome_length(pixels[0], "Y"), _ome_length(pixels[0], "X"))
    if aperio:
        return scale(aperio[1], aperio[1])
    unit = _MICRONS_PER_UNIT.get(int(page.tags.valueof(_RESOLUTION_UNIT, 2)))
    rational = [page.tags.valueof(tag, (0, 1)) for tag in (_Y_RESOLUTION, _X_RESOLUTION)]
    if unit is None or any(0 in value for value in rational):
        return None
    return scale(*(unit * below / above for above, below in rational))


#: OME's units of length in micrometres; the first is its default.
_OME_UNITS = {"": 1.0, "\u00b5m": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


def _ome_length(element: str, axis: str) -> float | None:
    value = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', element)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', element)
    factor = _OME_UNITS.get(unit[1] if unit else "")
    try:
        return float(value[1]) * factor
    except (TypeError, ValueError):
        return None
