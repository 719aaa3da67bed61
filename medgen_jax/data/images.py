"""Image files as arrays: PNG, JPEG, BMP and TIFF with 8 or 16 bits per sample.

Arrays are HWC with 1 or 3 channels, ``uint8`` or ``uint16``, values as stored in the file. A file
that would need a silent loss (transparency, more channels, another sample type) is refused. Every
size is checked from the header, before any pixel is decoded.

`READERS` maps a suffix to the pair of functions that read such files; another format is one more
entry.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from medgen_jax.core.errors import UserError

#: Largest decoded image, bytes. Larger ones are refused from their header.
MAX_IMAGE_BYTES = 1 << 30

_PIL_FORMATS = ("PNG", "JPEG", "BMP")
_ORIENTATION = 0x0112  # EXIF and TIFF tag
_NATIVE = "L" if sys.byteorder == "little" else "B"


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


class Reader(NamedTuple):
    """How files of one suffix are read; both functions may raise anything on a bad file."""

    header: Callable[[Path], ImageHeader]
    decode: Callable[[Path], np.ndarray]


def read_header(path: str | Path) -> ImageHeader:
    """Height, width, channels and bits of an image file, without decoding pixels.

    Raises:
      UserError: for a missing or broken file, an unsupported format, or one whose decoded size
        exceeds `MAX_IMAGE_BYTES`.
    """
    path = Path(path)
    with _naming(path):
        header = _reader(path).header(path)
    if header.height < 1 or header.width < 1:
        raise UserError(f"{path}: has no pixels ({header}); remove it")
    if header.nbytes > MAX_IMAGE_BYTES:
        raise UserError(
            f"{path}: {header} need {header.nbytes:,} bytes, more than the limit of {MAX_IMAGE_BYTES:,}; "
            "cut it into smaller images"
        )
    return header


def read_image(path: str | Path, bits: int | None = None) -> np.ndarray:
    """Decode an image file.

    Args:
      path: a file whose suffix is in `READERS`.
      bits: refuse files with another number of bits per sample; None takes 8 and 16.

    Returns:
      HWC array, 1 or 3 channels, ``uint8`` or ``uint16``.

    Raises:
      UserError: as `read_header`; also for transparent pixels and truncated data.
    """
    path = Path(path)
    header = read_header(path)
    if bits is not None and header.bits != bits:
        raise UserError(f"{path}: has {header.bits} bits per sample, expected {bits}; set config.data.bits")
    with _naming(path):
        array = np.ascontiguousarray(_reader(path).decode(path))
    expected = (header.height, header.width, header.channels), np.dtype(f"uint{header.bits}")
    if (array.shape, array.dtype) != expected:
        raise UserError(f"{path}: the header promises {header}, the data give {array.shape}; save the file again")
    return array


def write_image(path: str | Path, array: np.ndarray) -> None:
    """Write an HWC (or HW) array of ``uint8`` or ``uint16`` with 1 or 3 channels as PNG or TIFF.

    Raises:
      UserError: for a suffix other than .png, .tif, .tiff, or a place that cannot be written.
      ValueError: for another shape or dtype.
    """
    path = Path(path)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected uint8 or uint16 HWC with 1 or 3 channels, got {array.dtype} {array.shape}")
    pixels = array[..., 0] if array.shape[-1] == 1 else array
    try:
        if path.suffix.lower() == ".png":
            if array.dtype == np.uint16 and array.shape[-1] == 3:
                path.write_bytes(_encode_deep_png(array))
            else:
                Image.fromarray(pixels).save(path, optimize=True)
        elif path.suffix.lower() in (".tif", ".tiff"):
            tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
        else:
            raise UserError(f"{path}: images are written as .png, .tif or .tiff")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


def _reader(path: Path) -> Reader:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: unknown image type; the types read are {', '.join(sorted(READERS))}")
    return reader


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one message that names the file."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except PermissionError as error:
        raise UserError(f"{path}: may not be read; check its permissions") from error
    # The decoders raise nearly every exception type on damaged input, so none is singled out.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from error


def _refuse(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; convert it to 8- or 16-bit grey or RGB")


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8; anything else is upright) of an HWC array."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _without_alpha(path: Path, array: np.ndarray) -> np.ndarray:
    """Drop a last channel that is fully opaque everywhere."""
    if array[..., -1].min() != np.iinfo(array.dtype).max:
        raise _refuse(path, "its alpha (or extra) channel is not fully opaque")
    return array[..., :-1]


# ---- PNG, JPEG and BMP through Pillow -----------------------------------------------------------

_CHANNELS = {"1": 1, "L": 1, "LA": 1, "I": 1, "I;16": 1, "P": 3, "RGB": 3, "RGBA": 3}


def _rawmode(image: Image.Image) -> str:
    """Layout of the stored samples, such as ``RGB;16B`` for a PNG with 16-bit colours."""
    args = image.tile[0].args
    return args if isinstance(args, str) else str(args[0])


def _pil_header(path: Path) -> ImageHeader:
    with Image.open(path, formats=_PIL_FORMATS) as image:
        rawmode = _rawmode(image)
        if image.mode not in _CHANNELS:
            raise _refuse(path, f"colour mode {image.mode} is not supported")
        # The base class, because PngImageFile.getexif decodes the pixels first.
        turned = Image.Image.getexif(image).get(_ORIENTATION, 1) in (5, 6, 7, 8)
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        channels = 1 if rawmode.startswith("LA") else _CHANNELS[image.mode]
        return ImageHeader(height, width, channels, 16 if ";16" in rawmode else 8)


def _pil_decode(path: Path) -> np.ndarray:
    with Image.open(path, formats=_PIL_FORMATS) as image:
        rawmode, key = _rawmode(image), image.info.get("transparency")
        if image.mode == "P":
            image = image.convert("RGB" if key is None else "RGBA")
            key = None
        if rawmode in _DEEP:
            array, image = _DEEP[rawmode](path)
        elif rawmode == "I;16B":
            array = np.asarray(image).astype(np.uint16)
        else:
            array = np.asarray(image.convert("L") if image.mode == "1" else image)
        if key is not None and rawmode in ("1", "L;2", "L;4"):
            raise _refuse(path, "marks a grey level of fewer than 8 bits as transparent")
        orientation = image.getexif().get(_ORIENTATION, 1)
    array = array[..., None] if array.ndim == 2 else array
    if key is not None and (array == np.asarray(key, array.dtype)).all(axis=-1).any():
        raise _refuse(path, "has transparent pixels")
    if array.shape[-1] in (2, 4):
        array = _without_alpha(path, array)
    return _upright(array, orientation)


def _load_as(path: Path, rawmode: str) -> Image.Image:
    """Decode a file with its samples taken for another layout of the same width."""
    image = Image.open(path)
    with image:
        image.tile = [
            tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:]))
            for tile in image.tile
        ]
        image.load()
    return image


def _two_pass(path: Path, mode: str, order: str) -> tuple[np.ndarray, Image.Image]:
    """16-bit colours: Pillow keeps one byte of each sample, so decode the high and the low bytes.

    Args:
      mode: Pillow mode, RGB or RGBA.
      order: byte order of the decoded samples, B(ig) or L(ittle).
    """
    other = "L" if order == "B" else "B"
    high, low = _load_as(path, f"{mode};16{order}"), _load_as(path, f"{mode};16{other}")
    return np.asarray(high).astype(np.uint16) << 8 | np.asarray(low), low


def _grey_alpha(path: Path) -> tuple[np.ndarray, Image.Image]:
    """16-bit grey and alpha: the four bytes of a pixel arrive as the four channels of RGBA."""
    image = _load_as(path, "RGBA")
    parts = np.asarray(image).astype(np.uint16)
    return parts[..., 0::2] << 8 | parts[..., 1::2], image


_DEEP: dict[str, Callable[[Path], tuple[np.ndarray, Image.Image]]] = {
    "RGB;16B": lambda path: _two_pass(path, "RGB", "B"),
    "RGBA;16B": lambda path: _two_pass(path, "RGBA", "B"),
    "LA;16B": _grey_alpha,
}


def _encode_deep_png(array: np.ndarray) -> bytes:
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


# ---- TIFF: headers and plain data through tifffile, compressed data through Pillow's libtiff -----

_TIFF_CHANNELS = {"MINISWHITE": 1, "MINISBLACK": 1, "RGB": 3, "PALETTE": 3, "YCBCR": 3}


def _only_page(path: Path, tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    pages = [page for page in tiff.pages if not page.is_reduced]
    if len(pages) != 1:
        raise UserError(f"{path}: holds {len(pages)} pages; save one image per file")
    return pages[0]


def _tiff_header(path: Path) -> ImageHeader:
    with tifffile.TiffFile(path) as tiff:
        page = _only_page(path, tiff)
        colour, extra = page.photometric.name, len(page.extrasamples)
        if colour not in _TIFF_CHANNELS or page.bitspersample not in (1, 8, 16) or page.sampleformat != 1:
            kind = f"{colour} with {page.bitspersample}-bit samples of format {page.sampleformat}"
            raise _refuse(path, f"its pixel type ({kind}) is not supported")
        channels = _TIFF_CHANNELS[colour]
        stored = 1 if colour == "PALETTE" else channels
        if page.samplesperpixel != stored + extra or extra > 1 or page.imagedepth != 1:
            raise _refuse(path, f"has {page.samplesperpixel} samples per pixel and {page.imagedepth} plane(s)")
        turned = page.tags.valueof(_ORIENTATION, 1) in (5, 6, 7, 8)
        height, width = page.imagelength, page.imagewidth
        return ImageHeader(*((width, height) if turned else (height, width)), channels, max(8, page.bitspersample))


def _tiff_decode(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        page = _only_page(path, tiff)
        colour, planar = page.photometric.name, page.planarconfig == 2 and page.samplesperpixel > 1
        if page.compression == 1 and page.bitspersample >= 8 and colour in ("MINISWHITE", "MINISBLACK", "RGB"):
            array = page.asarray()
            array = np.moveaxis(array, 0, -1) if planar else array
            array = array[..., None] if array.ndim == 2 else array
            array = np.invert(array) if colour == "MINISWHITE" else array
            array = _without_alpha(path, array) if page.extrasamples else array
            return _upright(array.astype(array.dtype.newbyteorder("=")), page.tags.valueof(_ORIENTATION, 1))
        # libtiff writes into a buffer of the size in the header, so a strip cannot swell beyond it.
        if page.bitspersample == 16 and (planar or colour == "MINISWHITE"):
            kind = "separate planes" if planar else "white-is-zero samples"
            raise _refuse(path, f"holds compressed 16-bit {kind}, which is not supported")
    return _libtiff_decode(path)


def _libtiff_decode(path: Path) -> np.ndarray:
    """Compressed TIFF, upright (Pillow applies the orientation tag itself)."""
    with Image.open(path, formats=("TIFF",)) as image:
        rawmode = _rawmode(image)
        if rawmode.endswith(";16N") and image.mode in ("RGB", "RGBA"):
            array, _ = _two_pass(path, rawmode.split(";")[0], _NATIVE)
        elif image.mode.startswith("I;16"):
            array = np.asarray(image).astype(np.uint16)
        elif image.mode in ("1", "P", "PA"):
            array = np.asarray(image.convert("L" if image.mode == "1" else "RGBA" if image.mode == "PA" else "RGB"))
        else:
            array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    return _without_alpha(path, array) if array.shape[-1] in (2, 4) else array


#: Suffix -> how to read it.
READERS: dict[str, Reader] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp"), Reader(_pil_header, _pil_decode)),
    **dict.fromkeys((".tif", ".tiff"), Reader(_tiff_header, _tiff_decode)),
}
