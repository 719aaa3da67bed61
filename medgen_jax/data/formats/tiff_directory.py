"""Image file directories of TIFF (TIFF 6.0, section 2) and BigTIFF, little endian, as bytes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

#: Field types: number in the file, and struct code of one value.
ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = (2, "s"), (3, "H"), (4, "I"), (5, "II"), (7, "s"), (16, "Q")
#: Tag -> type and values; text and opaque fields have bytes, rationals pairs laid end to end.
Tags = Mapping[int, tuple[tuple[int, str], bytes | Sequence[int]]]


def header(first: int, big: bool) -> bytes:
    """The file's first 8 bytes (16 of BigTIFF), which point at the first directory."""
    return b"II" + (struct.pack("<HHHQ", 43, 8, 0, first) if big else struct.pack("<HI", 42, first))


def pack(tags: Tags, start: int, following: int, big: bool) -> bytes:
    """A directory to be put at ``start``, followed by those of its values that do not fit into it.

    Args:
      tags: written in ascending order, as the format asks.
      start: even place in the file.
      following: place of the next directory; 0 for the last.
      big: BigTIFF.
    """
    count, offset, room = ("<Q", "Q", 8) if big else ("<H", "I", 4)
    entry = struct.calcsize("<HH") + 2 * room
    after = start + struct.calcsize(count) + entry * len(tags) + room
    entries, tail = b"", b""
    for tag, ((kind, code), values) in sorted(tags.items()):
        number, data = _field(code, values)
        if len(data) > room:
            place, data = after + len(tail), data + bytes(len(data) % 2)
            tail += data
            data = struct.pack(f"<{offset}", place)
        entries += struct.pack(f"<HH{offset}", tag, kind, number) + data.ljust(room, b"\0")
    return struct.pack(count, len(tags)) + entries + struct.pack(f"<{offset}", following) + tail


def _field(code: str, values: bytes | Sequence[int]) -> tuple[int, bytes]:
    """Number of values and their bytes."""
    if isinstance(values, bytes):
        return len(values), values
    return len(values) // len(code), struct.pack(f"<{len(values)}{code[0]}", *values)
