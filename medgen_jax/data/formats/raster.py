"""PNG, JPEG and BMP through Pillow, which reads colours of 16 bits only after some persuasion.

Palettes become RGB, one-bit pictures 0 and 255, opaque alpha is dropped, EXIF orientation applied.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import codestream
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

#: First bytes -> Pillow's reader. Opened by name: ``Image.open`` would add a limit of its own.
_READERS = {
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "I": 1, "I;16": 1, "P": 3, "RGB": 3, "RGBA": 3}


def describe(source: Source, view: View) -> Described:
    """Size, type and range from the header."""
    source.number(1, "image")
    with _open(source.path) as image:
        rawmode = _rawmode(image)
        if image.mode not in _CHANNELS:
            raise refuse(source, f"colour mode {image.mode} is not supported")
        if getattr(image, "n_frames", 1) != 1:
            raise UserError(f"{source}: is an animation of {image.n_frames} frames; save one image per file")
        # The base class, because PngImageFile.getexif decodes the pixels first.
        size = upright_size(image.height, image.width, Image.Image.getexif(image).get(ORIENTATION, 1))
        channels = 1 if rawmode.startswith("LA") else _CHANNELS[image.mode]
        stored = ImageHeader(*size, channels, 16 if ";16" in rawmode else 8)
    bits, span = plan(source, np.dtype(f"uint{stored.bits}"), view)
    return Described(stored._replace(bits=bits), span, stored.nbytes)


def decode(source: Source, view: View) -> np.ndarray:
    """Levels, HWC."""
    pixels = _pixels(source)
    bits, span = plan(source, pixels.dtype, view)
    return to_levels(source, pixels, bits, span)


def encode_png(array: np.ndarray) -> bytes:
    """A PNG of HW or HW3 levels of 8 or 16 bits."""
    if array.dtype == np.uint16 and array.ndim == 3:
        return _encode_deep(array)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _open(path: Path) -> Image.Image:
    with path.open("rb") as stream:
        start = stream.read(4)
    for signature, reader in _READERS.items():
        if start.startswith(signature):
            return reader(path)
    raise ValueError("it is no PNG, JPEG or BMP file")


def _pixels(source: Source) -> np.ndarray:
    if source.path.suffix.lower() in (".jpg", ".jpeg"):
        codestream.check_scans(source.path.read_bytes())
    with _open(source.path) as image:
        rawmode, key = _rawmode(image), image.info.get("transparency")
        if image.mode == "P":
            image = image.convert("RGB" if key is None else "RGBA")
            key = None
        if rawmode in _DEEP:
            array, image = _DEEP[rawmode](source.path)
        elif rawmode == "I;16B":
            array = np.asarray(image).astype(np.uint16)
        else:
            array = np.asarray(image.convert("L") if image.mode == "1" else image)
        if key is not None and rawmode in ("1", "L;2", "L;4"):
            raise refuse(source, "marks a grey level of fewer than 8 bits as transparent")
        orientation = image.getexif().get(ORIENTATION, 1)
    array = hwc(array)
    if key is not None and (array == np.asarray(key, array.dtype)).all(axis=-1).any():
        raise refuse(source, "has transparent pixels")
    return upright(without_alpha(source, array), orientation)


def _rawmode(image: Image.Image) -> str:
    """Layout of the stored samples, such as ``RGB;16B`` for a PNG with 16-bit colours."""
    args = image.tile[0].args
    return args if isinstance(args, str) else str(args[0])


def _load_as(path: Path, rawmode: str) -> Image.Image:
    """Decode a file with its samples taken for another layout of the same width."""
    image = _open(path)
    with image:
        image.tile = [
            tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))
            for tile in image.tile
        ]
        image.load()
    return image


def _two_pass(path: Path, mode: str) -> tuple[np.ndarray, Image.Image]:
    """16-bit colours: Pillow keeps one byte of each sample, so decode the high and then the low bytes."""
    array = np.asarray(_load_as(path, f"{mode};16B")).astype(np.uint16)
    array <<= 8
    low = _load_as(path, f"{mode};16L")
    array |= np.asarray(low)
    return array, low


def _grey_alpha(path: Path) -> tuple[np.ndarray, Image.Image]:
    """16-bit grey and alpha: the four bytes of a pixel arrive as the four channels of RGBA."""
    image = _load_as(path, "RGBA")
    parts = np.asarray(image).astype(np.uint16)
    return parts[..., 0::2] << 8 | parts[..., 1::2], image


_DEEP: dict[str, Callable[[Path], tuple[np.ndarray, Image.Image]]] = {
    "RGB;16B": lambda path: _two_pass(path, "RGB"),
    "RGBA;16B": lambda path: _two_pass(path, "RGBA"),
    "LA;16B": _grey_alpha,
}


def _encode_deep(array: np.ndarray) -> bytes:
    """A PNG (ISO/IEC 15948) of 16-bit RGB, filter type 2 (Up) in every row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = array.shape
    rows = np.ascontiguousarray(array, ">u2").view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
