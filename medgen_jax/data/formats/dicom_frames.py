"""One frame of DICOM pixel data as stored samples (PS3.5, section 8 and annexes A and G).

Native and run-length encoded frames are unpacked here, at most to the size in the header; JPEG,
JPEG-LS and JPEG 2000 by the decoders that pydicom finds, once the frame's own header agrees.
"""

from __future__ import annotations

import logging
import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.pixels.utils import expand_ybr422
from pydicom.uid import UID

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import budget, codestream
from medgen_jax.data.formats.samples import Source

# pydicom logs a failed decoder with its traceback before it raises an error that says the same.
logging.getLogger("pydicom.pixels.decoders.base").setLevel(logging.CRITICAL)

#: Transfer syntax -> decoders, the preferred first. JPEG always goes the same way, so that pixels do
#: not depend on what is installed.
_DECODERS = {
    uid.JPEGBaseline8Bit: ("pillow",),
    uid.JPEGExtended12Bit: ("pillow",),
    uid.JPEGLossless: ("gdcm",),
    uid.JPEGLosslessSV1: ("gdcm",),
    uid.JPEGLSLossless: ("pyjpegls",),
    uid.JPEGLSNearLossless: ("pyjpegls",),
    uid.JPEG2000Lossless: ("pylibjpeg", "pillow"),
    uid.JPEG2000: ("pylibjpeg", "pillow"),
    uid.HTJ2KLossless: ("pylibjpeg",),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg",),
    uid.HTJ2K: ("pylibjpeg",),
}
_ROWS = 256  # converted at a time
_YBR = ("YBR_FULL", "YBR_FULL_422")


class Layout(NamedTuple):
    """How samples are stored: the Image Pixel module (PS3.3, C.7.6.3). ``high`` is the highest used bit."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str
    by_plane: bool
    frames: int
    floating: bool

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame."""
        per_pixel = 2 * self.allocated if self.photometric == "YBR_FULL_422" else self.samples * self.allocated
        return self.rows * self.columns * per_pixel

    @property
    def dtype(self) -> np.dtype:
        """Type that holds one stored sample."""
        letter = "f" if self.floating else "i" if self.signed else "u"
        return np.dtype(f"{letter}{max(1, self.allocated // 8)}")

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest integer that the stored bits hold."""
        half = 1 << (self.stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


class PixelData(NamedTuple):
    """Where pixel data lie: ``length`` bytes at ``offset``, None for encapsulated frames.

    ``words``: stored as 16-bit words (VR OW), which matters for bytes in big-endian files.
    """

    stream: BinaryIO
    offset: int
    length: int | None
    words: bool
    little: bool
    syntax: UID


class Frame(NamedTuple):
    """Samples (rows, columns, samples) of one frame, and the same before unused bits were cut off."""

    samples: np.ndarray
    raw: np.ndarray


def read(source: Source, pixels: PixelData, layout: Layout, number: int) -> Frame:
    """Decode one frame.

    Raises:
      UserError: when the decoder of its transfer syntax is not installed.
      ValueError: for damaged or missing data.
    """
    if pixels.length is not None:
        return _unmasked(_native(pixels, layout, number), layout)
    pixels.stream.seek(pixels.offset)
    frame = get_frame(pixels.stream, number, number_of_frames=layout.frames)
    if pixels.syntax == uid.RLELossless:
        array = _run_length(frame, layout)
        return _unmasked(_as_rgb(array, layout.photometric), layout)
    samples = _within(_as_rgb(*_decoded(source, pixels.syntax, frame, layout)), layout)
    return Frame(samples, samples)


def _unmasked(raw: np.ndarray, layout: Layout) -> Frame:
    """Cut unused bits off, which may hold overlays or anything else (PS3.5, 8.1.1), and extend the sign."""
    if layout.floating or layout.allocated == 1 or (layout.stored == layout.allocated):
        return Frame(raw, raw)
    up = layout.allocated - 1 - layout.high
    return Frame(raw << up >> (layout.allocated - layout.stored), raw)


def _within(samples: np.ndarray, layout: Layout) -> np.ndarray:
    """Check decoded samples against the stored bits; codecs without a sign give two's complement."""
    least, greatest = layout.limits
    if layout.signed and samples.min() >= 0 and greatest < samples.max() < 1 << layout.stored:
        samples = np.where(samples > greatest, samples.astype(np.int32) - (1 << layout.stored), samples)
    if samples.min() < least or samples.max() > greatest:
        raise ValueError(f"the compressed frame holds values that {layout.stored} bits do not")
    return samples


def _native(pixels: PixelData, layout: Layout, number: int) -> np.ndarray:
    first, bits = number * layout.frame_bits, layout.frame_bits
    start, end = first // 8, (first + bits + 7) // 8
    if end > pixels.length:
        raise ValueError(f"frame {number} needs {end:,} bytes, the file has {pixels.length:,}")
    data = _bytes(pixels, start, end, swapped=pixels.words and not pixels.little and layout.allocated <= 8)
    if layout.allocated == 1:
        unpacked = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return unpacked[first % 8 :][:bits].reshape(layout.rows, layout.columns, 1)
    if layout.photometric == "YBR_FULL_422":
        data = expand_ybr422(data, layout.allocated)
    array = np.frombuffer(data, layout.dtype.newbyteorder("<" if pixels.little else ">"))
    return _as_rgb(_pixelwise(array, layout).astype(layout.dtype), layout.photometric)


def _bytes(pixels: PixelData, start: int, end: int, swapped: bool) -> bytes:
    if not swapped:
        return budget.read_at(pixels.stream, pixels.offset + start, end - start)
    words = budget.read_at(pixels.stream, pixels.offset + start // 2 * 2, (end + 1) // 2 * 2 - start // 2 * 2)
    return np.frombuffer(words, "<u2").byteswap().tobytes()[start % 2 :][: end - start]


def _pixelwise(array: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.by_plane and layout.photometric != "YBR_FULL_422":
        return np.moveaxis(array.reshape(layout.samples, layout.rows, layout.columns), 0, -1)
    return array.reshape(layout.rows, layout.columns, layout.samples)


def _as_rgb(array: np.ndarray, photometric: str) -> np.ndarray:
    if photometric not in _YBR:
        return array
    if array.dtype != np.uint8:
        raise ValueError(f"{photometric} of {array.dtype.name} is not read")
    # In blocks of rows: the conversion takes four bytes for each sample.
    blocks = [array[rows : rows + _ROWS] for rows in range(0, len(array), _ROWS)]
    return np.concatenate([convert_color_space(block, "YBR_FULL", "RGB") for block in blocks])


def _run_length(frame: bytes, layout: Layout) -> np.ndarray:
    """Annex G: one segment per byte of a sample, the highest byte first."""
    width, size = layout.allocated // 8, layout.rows * layout.columns
    wanted = layout.samples * width
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != wanted:
        raise ValueError(f"its run-length frame has {count} segments instead of {wanted}")
    ends = [*offsets[1:count], len(frame)]
    planes = [_unpack_bits(frame[a:b], size) for a, b in zip(offsets[:count], ends, strict=True)]
    parts = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], axis=-1)
    parts = parts.reshape(layout.rows, layout.columns, layout.samples, width)
    return np.ascontiguousarray(parts).view(layout.dtype.newbyteorder(">"))[..., 0].astype(layout.dtype)


def _unpack_bits(packed: bytes, size: int) -> bytearray:
    """PackBits (Annex G.3.1), until ``size`` bytes are there."""
    out, at = bytearray(), 0
    while len(out) < size and at < len(packed):
        n = packed[at]
        if n < 128:
            out += packed[at + 1 : at + 2 + n]
            at += 2 + n
        elif n > 128:
            out += packed[at + 1 : at + 2] * (257 - n)
            at += 2
        else:
            at += 1
    if len(out) < size:
        raise ValueError(f"a run-length segment gives {len(out):,} bytes instead of {size:,}")
    return out[:size]


def _decoded(source: Source, syntax: UID, frame: bytes, layout: Layout) -> tuple[np.ndarray, str]:
    """JPEG, JPEG-LS or JPEG 2000 as (rows, columns, samples), and the colour model that came out."""
    frame = codestream.unboxed(frame)
    found = codestream.examine(frame)
    promised = codestream.Stream(layout.rows, layout.columns, layout.samples, found.precision)
    if found != promised or found.precision > layout.allocated:
        raise ValueError(f"the compressed frame has {found}, the file's header says {promised}")
    decoder, names = get_decoder(syntax), _DECODERS[syntax]
    usable = [name for name in names if name in decoder.available_plugins]
    if usable == ["pillow"] and "pylibjpeg" in names and layout.samples > 1 and found.precision > 8:
        usable = []  # it would keep eight bits
    if syntax == uid.JPEGExtended12Bit and found.precision > 8:
        raise UserError(f"{source}: holds JPEG of {found.precision} bits, which is not read; decompress the file")
    if not usable:
        raise UserError(f"{source}: is compressed as {syntax.name}; to read it, pip install 'medgen_jax[dicom]'")
    array, about = decoder.as_array(
        encapsulate([frame]),
        index=0,
        raw=True,
        correct_unused_bits=False,
        decoding_plugin=usable[0],
        rows=layout.rows,
        columns=layout.columns,
        number_of_frames=1,
        samples_per_pixel=layout.samples,
        photometric_interpretation=layout.photometric,
        pixel_representation=int(layout.signed),
        bits_allocated=layout.allocated,
        bits_stored=layout.stored,
        planar_configuration=int(layout.by_plane),
        pixel_keyword="PixelData",
    )
    array = array.reshape(layout.rows, layout.columns, layout.samples)
    return array, str(about["photometric_interpretation"])
