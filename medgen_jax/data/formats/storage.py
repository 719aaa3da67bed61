"""How a file stores its samples, beyond the levels that are read from it: their type, and the size of a pixel."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import tifffile

from medgen_jax.data.formats import arrays, budget
from medgen_jax.data.formats.samples import Source

_TIFF, _ARRAYS = (".tif", ".tiff"), (".npy", ".npz", ".mat", ".h5", ".hdf5")
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
#: TIFF's ResolutionUnit -> micrometres.
_MICRONS = {2: 25400.0, 3: 10000.0}
_MICROMETRE = ("um", "micron", "microns", "\u00b5m", "\u03bcm", "\\u00B5m")


class Storage(NamedTuple):
    """How samples are stored.

    Attributes:
      dtype: of the samples as a TIFF or array file holds them; that of the levels for other files.
      microns_per_pixel: of a TIFF that says so, with square pixels; None for all other files.
    """

    dtype: np.dtype
    microns_per_pixel: float | None


def read(source: Source, bits: int) -> Storage:
    """How the samples of an image are stored; TIFF is read from its tags, arrays are loaded.

    Args:
      bits: of its levels.
    """
    suffix, levels = source.path.suffix.lower(), np.dtype(f"uint{bits}")
    if suffix in _TIFF:
        with tifffile.TiffFile(source.path) as tiff:
            page = _page(source, tiff)
            dtype = page.dtype if page.dtype is not None and page.dtype.kind in "iuf" else levels
            # A palette holds places in a table, of levels.
            stored = levels if page.photometric == tifffile.PHOTOMETRIC.PALETTE else dtype.newbyteorder("=")
            return Storage(stored, _microns(tiff, page))
    if suffix in _ARRAYS:
        dtype = arrays.load(source, budget.MAX_ARRAY_BYTES).dtype
        return Storage(levels if dtype.kind == "b" else dtype.newbyteorder("="), None)
    return Storage(levels, None)


def _page(source: Source, tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """The chosen page, or the first that is no thumbnail."""
    if source.name.isdecimal():
        return tiff.pages[int(source.name)]
    return next((page for page in tiff.pages if not page.is_reduced), tiff.pages[0])


def _microns(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    """Size of square pixels by OME-XML, ImageJ's unit, or the resolution tags."""
    if tiff.is_ome:
        sizes = [_ome_size(tiff.ome_metadata or "", axis) for axis in "XY"]
    else:
        unit = _MICRONS.get(int(page.tags.valueof(_RESOLUTION_UNIT, default=2)))
        if tiff.is_imagej and str((tiff.imagej_metadata or {}).get("unit")) in _MICROMETRE:
            unit = 1.0
        sizes = [_tag_size(page, tag, unit) for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
    across, down = sizes
    square = across is not None and down is not None and math.isclose(across, down, rel_tol=1e-3)
    return across if square else None


def _ome_size(xml: str, axis: str) -> float | None:
    size = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', xml)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', xml)
    if size is None or (unit is not None and unit[1] not in _MICROMETRE):
        return None
    return _positive(float(size[1]))


def _tag_size(page: tifffile.TiffPage, tag: int, unit: float | None) -> float | None:
    pixels, length = page.tags.valueof(tag, default=(0, 0))
    return _positive(unit * length / pixels) if unit and pixels else None


def _positive(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None
