"""What the header of a compressed frame says: JPEG (ITU-T T.81), JPEG-LS (T.87), JPEG 2000 (T.800).

A DICOM header and the frame inside it are written by different programs; decoders believe the frame.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

#: Start-of-frame markers: SOF0 to SOF15 without DHT, JPG and DAC; SOF55 of JPEG-LS.
_FRAMES = {0xC0 + n for n in range(16)} - {0xC4, 0xC8, 0xCC} | {0xF7}
#: More tiles than any writer makes; each takes kilobytes in a decoder before it holds a pixel.
_MAX_TILES = 4096
#: Scans of a progressive JPEG; each costs a pass over the whole image. Encoders write about ten.
MAX_SCANS = 500


class Stream(NamedTuple):
    """Size, components and bits per sample of a compressed frame."""

    height: int
    width: int
    components: int
    precision: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width} pixels with {self.components} component(s) of {self.precision} bits"


def examine(frame: bytes) -> Stream:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 frame.

    Raises:
      ValueError: for anything else, and for more tiles or scans than an image needs.
    """
    if frame.startswith(b"\xff\xd8"):
        return _jpeg(frame)
    if frame.startswith(b"\xff\x4f\xff\x51"):
        return _jpeg2000(frame)
    raise ValueError("the compressed frame is neither JPEG nor JPEG 2000")


def unboxed(frame: bytes) -> bytes:
    """The codestream of a JPEG 2000 frame that was wrongly stored with its JP2 file header."""
    at = 0
    while frame.startswith(b"\0\0\0\x0cjP  ") and at + 8 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, at)
        if kind == b"jp2c":
            return frame[at + 8 :]
        if length < 8:
            raise ValueError(f"its JP2 box at byte {at} is damaged")
        at += length
    return frame


def check_scans(data: bytes) -> None:
    """Count the scans of a JPEG, whose entropy-coded data never hold this marker.

    Raises:
      ValueError: for more than `MAX_SCANS`.
    """
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"it has more than {MAX_SCANS} progressive scans")


def _jpeg(frame: bytes) -> Stream:
    check_scans(frame)
    at = 2
    while at + 4 <= len(frame):
        mark, kind, length = struct.unpack_from(">BBH", frame, at)
        if mark != 0xFF:
            break
        if kind == 0xFF:  # fill byte
            at += 1
        elif kind in _FRAMES:
            precision, height, width, components = struct.unpack_from(">BHHB", frame, at + 4)
            return Stream(height, width, components, precision)
        else:
            at += 2 + length
    raise ValueError("the compressed frame has no header")


def _jpeg2000(frame: bytes) -> Stream:
    # Table A.9: Rsiz, Xsiz, Ysiz, XOsiz, YOsiz, XTsiz, YTsiz, XTOsiz, YTOsiz, Csiz, then Ssiz of component 0.
    _, right, bottom, left, top, across, down, _, _, components, depth = struct.unpack_from(">HIIIIIIIIHB", frame, 6)
    height, width = bottom - top, right - left
    if min(height, width, across, down) < 1 or -(-right // across) * -(-bottom // down) > _MAX_TILES:
        raise ValueError(f"its tiles of {down}x{across} do not fit {height}x{width} pixels")
    return Stream(height, width, components, (depth & 0x7F) + 1)
