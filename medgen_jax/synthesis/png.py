"""PNG files (ISO/IEC 15948) that say that they are synthetic.

Pillow encodes PNG while it holds the interpreter's lock, and knows no colours of 16 bits. Here nearly all the time goes
into zlib, which lets the lock go, so that threads write as many files at once as there are cores.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

#: What every file says of itself.
NOTICE = "synthetic image, not a patient"
#: First word of `SOFTWARE`'s text; `is_ours` looks for it.
_PROGRAM = "medgen_jax"
_SOFTWARE = "Software"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # each row as its difference from the one above
_LEVEL = 3  # of zlib: files of X-rays are 1 to 5 % larger than at its default, written in less than half of the time
_COLOUR_TYPES = {1: 0, 3: 2}


def marks(version: str, **about: str) -> dict[str, str]:
    """The text that goes with an image: program, whatever is known, and that it is synthetic.

    Args:
      version: of this program.
      about: keyword -> text; keywords are Latin letters.
    """
    return {_SOFTWARE: f"{_PROGRAM} {version}", **about, "mark": "synthetic", "Disclaimer": NOTICE}


def encode(array: np.ndarray, text: Mapping[str, str]) -> bytes:
    """A whole file.

    Args:
      array: (h, w, 1 or 3), ``uint8`` or ``uint16``.
      text: keyword -> text, in this order, before the pixels; what Latin-1 cannot say is stored as UTF-8.

    Raises:
      ValueError: another shape or dtype.
    """
    if array.ndim != 3 or array.shape[2] not in _COLOUR_TYPES or array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected uint8 or uint16 (h, w, 1 or 3), got {array.dtype} {array.shape}")
    height, width, channels = array.shape
    rows = np.ascontiguousarray(array, array.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), _UP, np.uint8)
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8 * array.dtype.itemsize, _COLOUR_TYPES[channels], 0, 0, 0)
    said = b"".join(_text(keyword, value) for keyword, value in text.items())
    pixels = _chunk(b"IDAT", zlib.compress(filtered, _LEVEL))
    return _SIGNATURE + _chunk(b"IHDR", header) + said + pixels + _chunk(b"IEND", b"")


def is_ours(path: Path) -> bool:
    """Whether a file says that this program made it; False for one that cannot be read."""
    try:
        with path.open("rb") as stream:
            start = stream.read(256)
    except OSError:
        return False
    return start.startswith(_SIGNATURE) and f"tEXt{_SOFTWARE}\0{_PROGRAM} ".encode() in start


def _text(keyword: str, value: str) -> bytes:
    name, value = keyword.encode("latin-1"), value.replace("\0", " ")
    try:
        return _chunk(b"tEXt", name + b"\0" + value.encode("latin-1"))
    except UnicodeEncodeError:  # uncompressed, of no stated language
        return _chunk(b"iTXt", name + b"\0\0\0\0\0" + value.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
