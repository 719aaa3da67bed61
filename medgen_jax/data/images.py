"""Image files as arrays, and arrays as image files: the face of the formats.

Arrays are HWC with 1 or 3 channels, ``uint8`` or ``uint16``. PNG, JPEG, BMP and TIFF of 8 or 16 bits
keep the values of the file; other samples are mapped onto levels by a declared `View`, and
`read_range` says which physical values they stand for. A range is of one quantity: where it is declared
it holds for 8 and 16 bits of grey too, but not for colours that are levels already. A file that would
need a silent loss (transparency, more channels, an undeclared range) is refused. Every size is checked
from the header, before any pixel is decoded.

A path may choose a part of its file, counted from 0: ``stack.tif#3`` a page, ``scan.dcm#3`` a frame,
``data.mat#phase`` an array, ``data.h5#group/stack[3]`` a plane of it.

`READERS` maps a suffix to the pair of functions that read such files; another format is one more
entry. Files of any other name are read when they carry the mark of DICOM.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import budget
from medgen_jax.data.formats.samples import (
    Described,
    ImageHeader,
    Range,
    Source,
    View,
    dequantise,
    quantise,
)

if TYPE_CHECKING:
    from medgen_jax.data.formats.dicom_write import Derivation
    from medgen_jax.data.formats.storage import Storage

__all__ = [
    "READERS",
    "ImageHeader",
    "Range",
    "View",
    "dequantise",
    "is_image",
    "quantise",
    "read_array",
    "read_header",
    "read_image",
    "read_range",
    "read_storage",
    "write_image",
]

_DEFAULT = View()
_DICOM = (".dcm", ".dicom", ".ima")


class Reader(NamedTuple):
    """How files of one suffix are read; both functions may raise anything on a bad file."""

    describe: Callable[[Source, View], Described]
    decode: Callable[[Source, View], np.ndarray]


def read_header(path: str | Path, view: View = _DEFAULT) -> ImageHeader:
    """Height, width, channels and bits of an image as `read_image` returns it, without decoding pixels.

    Raises:
      UserError: for a missing or broken file, an unsupported format, one that holds several images
        of which none is chosen, or one whose decoded size exceeds its `budget`.
    """
    return _describe(Source.parse(path), view)[0].header


def read_range(path: str | Path, view: View = _DEFAULT) -> Range:
    """Physical values of the darkest and the brightest level of an image, without decoding pixels.

    ``dequantise(read_image(path, view=view), *read_range(path, view)[:2])`` are physical values.

    Raises:
      UserError: as `read_header`.
    """
    return _describe(Source.parse(path), view)[0].range


def read_storage(path: str | Path, view: View = _DEFAULT) -> Storage:
    """Type of the samples as they are stored, and size of a pixel where a TIFF file says so.

    Raises:
      UserError: as `read_header`.
    """
    from medgen_jax.data.formats import storage

    source = Source.parse(path)
    header = _describe(source, view)[0].header
    with _naming(source):
        return storage.read(source, header.bits)


def read_image(path: str | Path, bits: int | None = None, view: View = _DEFAULT) -> np.ndarray:
    """Decode an image file.

    Args:
      path: a file whose suffix is in `READERS`, or a DICOM file of any name.
      bits: refuse images with another number of bits per sample; None takes 8 and 16.
      view: how samples that are not 8 or 16 unsigned bits become levels.

    Returns:
      HWC array, 1 or 3 channels, ``uint8`` or ``uint16``.

    Raises:
      UserError: as `read_header`; also for transparent pixels, NaN and truncated data.
    """
    source = Source.parse(path)
    found, view = _describe(source, view)
    header = found.header
    if bits is not None and header.bits != bits:
        raise UserError(f"{source}: has {header.bits} bits per sample, expected {bits}; set config.data.bits")
    with _naming(source):
        array = np.ascontiguousarray(_reader(source.path).decode(source, view))
    expected = (header.height, header.width, header.channels), np.dtype(f"uint{header.bits}")
    if (array.shape, array.dtype) != expected:
        raise UserError(f"{source}: the header promises {header}, the data give {array.shape}; save the file again")
    return array


def read_array(path: str | Path, max_bytes: int | None = None) -> np.ndarray:
    """A numeric array of any shape and type from an NPY, NPZ, MAT or HDF5 file, such as an image stack.

    Args:
      path: ``file.h5#group/name`` chooses among several; without it the only array that could be an
        image is taken. MATLAB arrays have the shape that MATLAB shows.
      max_bytes: refuse larger arrays; `budget.MAX_ARRAY_BYTES` when None.

    Raises:
      UserError: for a missing or broken file, pickled or other non-numeric content, an array beyond
        its budget, or several arrays of which none is chosen.
    """
    from medgen_jax.data.formats import arrays

    source = Source.parse(path)
    with _naming(source):
        return arrays.load(source, budget.MAX_ARRAY_BYTES if max_bytes is None else max_bytes)


def is_image(path: Path) -> bool:
    """Whether a file would be read: by its suffix, or as DICOM by its content."""
    return path.is_file() and (path.suffix.lower() in READERS or _is_dicom(path))


def write_image(
    path: str | Path,
    array: np.ndarray,
    *,
    microns_per_pixel: float | None = None,
    span: Range | None = None,
    derivation: Derivation | None = None,
) -> None:
    """Write an HWC (or HW) array with 1 or 3 channels; an existing file is replaced at once or not at all.

    Args:
      path: .png, .tif, .tiff, .npy, .dcm, .dicom or .ima.
      array: ``uint8`` or ``uint16``; for TIFF and NPY any integers of up to 32 bits and floating-point numbers.
      microns_per_pixel: recorded in TIFF and DICOM; the others have no place for it.
      span: physical values of the levels, recorded in grey DICOM; the others have no place for it.
      derivation: `dicom_write.Derivation`: what a DICOM file says of its origin.

    Raises:
      UserError: for another suffix, or a place that cannot be written.
      ValueError: for another shape or dtype.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    array = array[..., None] if array.ndim == 2 else array
    written = _NUMBERS if suffix in (".tif", ".tiff", ".npy") else _LEVELS
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or array.dtype.name not in written:
        raise ValueError(f"expected uint8 or uint16 HWC with 1 or 3 channels, got {array.dtype} {array.shape}")
    pixels = array[..., 0] if array.shape[-1] == 1 else array
    if suffix == ".png":
        data = _format("raster").encode_png(pixels)
    elif suffix in (".tif", ".tiff"):
        data = _format("tiff").encode(pixels, microns_per_pixel)
    elif suffix == ".npy":
        data = _format("arrays").encode_npy(pixels)
    elif suffix in _DICOM:
        data = _format("dicom_write").encode(pixels, microns_per_pixel, span, derivation)
    else:
        raise UserError(f"{path}: images are written as .png, .tif, .tiff, .npy or .dcm")
    try:
        _replace(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


_LEVELS = ("uint8", "uint16")
_NUMBERS = (*_LEVELS, "uint32", "int8", "int16", "int32", "float16", "float32", "float64")


def _describe(source: Source, view: View) -> tuple[Described, View]:
    """What a file holds, and the view through which it is read."""
    with _naming(source):
        describe = _reader(source.path).describe
        found = describe(source, view)
        if view.range is not None and found.header.channels == 3:
            plain = dataclasses.replace(view, range=None)
            with contextlib.suppress(UserError):  # samples that need a range
                levels = describe(source, plain)
                found, view = (levels, plain) if levels.range.low == 0 else (found, view)
    header = found.header
    if header.height < 1 or header.width < 1:
        raise UserError(f"{source}: has no pixels ({header}); remove it")
    budget.check(source.path, header, max(header.nbytes, found.nbytes))
    return found, view


def _format(name: str) -> ModuleType:
    return importlib.import_module(f"medgen_jax.data.formats.{name}")


def _reader_of(name: str) -> Reader:
    """The functions of a format, imported on first use: most runs read one format."""
    return Reader(
        lambda source, view: _format(name).describe(source, view),
        lambda source, view: _format(name).decode(source, view),
    )


#: Suffix -> how to read it.
READERS: dict[str, Reader] = {
    suffix: _reader_of(name)
    for name, suffixes in {
        "raster": (".png", ".jpg", ".jpeg", ".bmp"),
        "tiff": (".tif", ".tiff"),
        "dicom": _DICOM,
        "arrays": (".npy", ".npz", ".mat", ".h5", ".hdf5"),
    }.items()
    for suffix in suffixes
}


def _reader(path: Path) -> Reader:
    reader = READERS.get(path.suffix.lower())
    if reader is None and _is_dicom(path):
        return READERS[".dcm"]
    if reader is None:
        raise UserError(f"{path}: unknown image type; the types read are {', '.join(sorted(READERS))}")
    return reader


def _is_dicom(path: Path) -> bool:
    """Whether a file has the preamble of DICOM (PS3.10, section 7.1); False for one that cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextlib.contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Turn whatever a decoder raises into one message that names the file."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file") from error
    except PermissionError as error:
        raise UserError(f"{source}: may not be read; check its permissions") from error
    # The decoders raise nearly every exception type on damaged input, so none is singled out.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{source}: cannot be read as an image ({reason}); replace or remove it") from error


def _replace(path: Path, data: bytes) -> None:
    """Write beside the file, then put it in its place."""
    scratch = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with scratch.open("xb") as stream:
            stream.write(data)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
