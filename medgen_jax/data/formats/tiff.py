"""TIFF: headers through tifffile, sample data through `tiff_segments`, the rest through Pillow.

Grey and RGB of 8, 16 and 32 bits, integer or floating point, as strips or tiles, interleaved or in
planes, plain or packed with any codec of bytes. One-bit, palette, YCbCr, JPEG and fax data go through
Pillow's libtiff, which never writes beyond the size in the header.
"""

from __future__ import annotations

import io
import logging
import math

import numpy as np
import tifffile
from PIL import TiffImagePlugin

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import tiff_segments
from medgen_jax.data.formats.samples import (
    ORIENTATION,
    Described,
    ImageHeader,
    Source,
    View,
    hwc,
    plan,
    refuse,
    to_levels,
    upright,
    upright_size,
    without_alpha,
)

_CHANNELS = {"MINISWHITE": 1, "MINISBLACK": 1, "RGB": 3, "PALETTE": 3, "YCBCR": 3}
_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
#: Pages beyond which thumbnails are not told from images.
_MANY = 64

# What tifffile finds odd goes to its log; the one message of a refusal is enough.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def describe(source: Source, view: View) -> Described:
    """Size, type and range from the tags of the chosen page."""
    with tifffile.TiffFile(source.path) as tiff:
        page, _ = _page(source, tiff)
        colour, extra, dtype = _colour(page), len(page.extrasamples), _dtype(source, page)
        channels = _CHANNELS[colour]
        stored = 1 if colour == "PALETTE" else channels
        if page.samplesperpixel != stored + extra or extra > 1 or page.imagedepth != 1:
            raise refuse(source, f"has {page.samplesperpixel} samples per pixel and {page.imagedepth} plane(s)")
        _check_layout(source, page, dtype)
        height, width = page.imagelength, page.imagewidth
        size = upright_size(height, width, page.tags.valueof(ORIENTATION, 1))
        nbytes = height * width * max(channels + extra, stored) * dtype.itemsize
        nbytes += tiff_segments.nbytes(page, dtype)
    bits, span = plan(source, dtype, view)
    return Described(ImageHeader(*size, channels, bits), span, nbytes)


def decode(source: Source, view: View) -> np.ndarray:
    """Levels, HWC."""
    with tifffile.TiffFile(source.path) as tiff:
        page, index = _page(source, tiff)
        if not _through_pillow(page):
            array = tiff_segments.read(tiff.filehandle, page, _dtype(source, page))
            array = np.invert(array) if _colour(page) == "MINISWHITE" else array
            array = upright(without_alpha(source, array), page.tags.valueof(ORIENTATION, 1))
        else:
            array = None
    array = _libtiff_pixels(source, index) if array is None else array
    bits, span = plan(source, array.dtype, view)
    return to_levels(source, array, bits, span, view.nan)


def encode(array: np.ndarray, microns_per_pixel: float | None = None) -> bytes:
    """A TIFF of HW or HW3 samples, ``uint8``, ``uint16`` or ``float32``; resolution tags in pixels per cm."""
    stream = io.BytesIO()
    scale = {} if microns_per_pixel is None else {"resolution": (1e4 / microns_per_pixel,) * 2, "resolutionunit": 3}
    tifffile.imwrite(stream, array, photometric="rgb" if array.ndim == 3 else "minisblack", metadata=None, **scale)
    return stream.getvalue()


def _page(source: Source, tiff: tifffile.TiffFile) -> tuple[tifffile.TiffPage, int]:
    """The chosen page and its place in the file; thumbnails do not count when nothing is chosen."""
    count = len(tiff.pages)
    if count == 0:
        raise UserError(f"{source}: holds no image; replace it")
    full = [i for i in range(count) if not tiff.pages[i].is_reduced] if 1 < count <= _MANY else range(count)
    chosen = source.index is not None or source.name
    place = full[0] if len(full) == 1 and not chosen else source.number(count, "page")
    page = tiff.pages[place]
    planes = _planes(tiff, page)
    if planes > 1:
        raise UserError(f"{source}: one page holds a stack of {planes} images; save one image per page or file")
    return page, place


def _planes(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Images behind one page, which some programs write one after the other without tags."""
    if tiff.is_stk:
        return int(tiff.pages[0].tags[33629].count)
    if tiff.is_imagej and len(tiff.pages) == 1:
        return int((tiff.imagej_metadata or {}).get("images", 1))
    if tiff.is_shaped and len(tiff.pages) == 1:
        shape = (tiff.shaped_metadata or ({},))[0].get("shape", page.shape)
        return max(1, math.prod(shape) // max(1, math.prod(page.shape)))
    return 1


def _colour(page: tifffile.TiffPage) -> str:
    return getattr(page.photometric, "name", f"colour model {page.photometric}")


def _dtype(source: Source, page: tifffile.TiffPage) -> np.dtype:
    """Type of the decoded samples.

    Raises:
      UserError: for colours and types that are not read.
    """
    colour, bits, form = _colour(page), page.bitspersample, page.sampleformat
    letter = {1: "uint", 2: "int", 3: "float"}.get(int(form) if isinstance(form, int) else 0, "other")
    name = "uint8" if (bits, letter) == (1, "uint") else f"{letter}{bits}"
    grey_or_rgb = colour in ("MINISWHITE", "MINISBLACK", "RGB")
    known = name in _DTYPES if grey_or_rgb else name in ("uint8", "uint16") and colour in _CHANNELS
    if not known or (colour == "MINISWHITE" and letter != "uint"):
        raise refuse(source, f"its pixel type ({colour} with {bits}-bit samples of format {form}) is not supported")
    return np.dtype(name)


def _through_pillow(page: tifffile.TiffPage) -> bool:
    plain = _colour(page) in ("MINISWHITE", "MINISBLACK", "RGB") and page.bitspersample != 1
    return not plain or page.compression not in tiff_segments.CODECS


def _check_layout(source: Source, page: tifffile.TiffPage, dtype: np.dtype) -> None:
    """Refuse what neither way of decoding gets right."""
    if not _through_pillow(page):
        if page.fillorder != 1 or page.predictor not in tiff_segments.PREDICTORS:
            raise refuse(source, f"its predictor ({page.predictor}) or bit order ({page.fillorder}) is not supported")
        if page.extrasamples and dtype.kind != "u":
            raise refuse(source, f"has an extra channel of {dtype.name} samples")
        return
    codec = getattr(page.compression, "name", page.compression)
    if page.compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise UserError(f"{source}: its compression ({codec}) is not read here; save it with LZW or deflate")
    if dtype != np.uint8:
        raise refuse(source, f"holds {_colour(page)} of {dtype.name} compressed as {codec}, not supported")


def _libtiff_pixels(source: Source, place: int) -> np.ndarray:
    """A page of 8-bit samples, upright (Pillow applies the orientation tag itself)."""
    with TiffImagePlugin.TiffImageFile(source.path) as image:
        image.seek(place)
        if image.mode in ("1", "P", "PA"):
            array = np.asarray(image.convert("L" if image.mode == "1" else "RGBA" if image.mode == "PA" else "RGB"))
        elif image.mode in ("L", "LA", "RGB", "RGBA"):
            array = np.asarray(image)
        else:
            raise refuse(source, f"colour mode {image.mode} is not supported")
    return without_alpha(source, hwc(array))
