"""From what a network made of an image to a file like the one that it was made from.

One rule: format, bit depth and type of samples, physical range and size of pixels stay. Formats that are
not written become the nearest one that is: JPEG (which would add its artefacts) and BMP become PNG, arrays
in containers NPY; DICOM gets a name that says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data import images
from medgen_jax.data.formats.dicom_write import Derivation
from medgen_jax.data.images import Range, View

_WRITTEN_AS = {
    ".jpg": ".png", ".jpeg": ".png", ".bmp": ".png",
    ".npz": ".npy", ".mat": ".npy", ".h5": ".npy", ".hdf5": ".npy",
}  # fmt: skip
_DICOM = (".dcm", ".dicom", ".ima")
_FLOATS = (".tif", ".tiff", ".npy")
_ROWS = 256  # converted at a time


def name_for(file: Path) -> str:
    """What the output made from a file is called."""
    suffix = file.suffix.lower()
    if suffix not in images.READERS:  # DICOM without a suffix, whose name may hold dots
        return file.name + ".dcm"
    return file.stem + _WRITTEN_AS.get(suffix, file.suffix)


def is_dicom(file: Path) -> bool:
    """Whether a file that is read at all is read as DICOM."""
    return file.suffix.lower() in _DICOM or file.suffix.lower() not in images.READERS


def write(output: Path, made: np.ndarray, source: Path, view: View, derivation: Derivation) -> None:
    """Write an image as its source is stored.

    A network that turns grey into colours, or the reverse, leaves the quantity of its input: its outputs
    are levels of the input's bits, or where they are grey and a range is declared, values in that range.

    Args:
      output: named by `name_for`.
      made: (h, w, c) float in [-1, 1]; values beyond are clipped.
      source: file of the same height and width.
      view: through which the source was read.
      derivation: what a DICOM file says of its origin.

    Raises:
      UserError: for NaN, and a place that cannot be written.
    """
    if not np.isfinite(made).all():
        raise UserError(f"{source}: the network's output is not finite; try another --checkpoint, or train again")
    header, storage = images.read_header(source, view), images.read_storage(source, view)
    levels = np.dtype(f"uint{header.bits}")
    if made.shape[-1] == header.channels:
        span, dtype = images.read_range(source, view), storage.dtype
    elif made.shape[-1] == 1 and view.range is not None and output.suffix.lower() in (*_FLOATS, *_DICOM):
        span, dtype = view.range, np.dtype(np.float32)
    else:
        span, dtype = _levels(levels), levels
    if output.suffix.lower() in _DICOM:
        stored = _numbers(made, _levels(levels), levels)
        images.write_image(output, stored, span=span, derivation=derivation)
    else:
        stored = _numbers(made, span, dtype)
        images.write_image(output, stored, microns_per_pixel=storage.microns_per_pixel)


def _levels(dtype: np.dtype) -> Range:
    return Range(0, np.iinfo(dtype).max)


def _numbers(made: np.ndarray, span: Range, dtype: np.dtype) -> np.ndarray:
    """[-1, 1] as values of a range, whole numbers to the nearest; in blocks, because they pass through float64."""
    values = np.empty(made.shape, dtype)
    for start in range(0, len(made), _ROWS):
        share = (np.clip(made[start : start + _ROWS].astype(np.float64), -1, 1) + 1) / 2
        block = span.low + share * (span.high - span.low)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            block = np.clip(np.rint(block), limits.min, limits.max)
        values[start : start + _ROWS] = block
    return values
