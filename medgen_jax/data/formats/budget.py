"""How much a file may ask for: claims are checked before memory is taken or anything is unpacked.

A file of a few hundred kilobytes can unpack to gigabytes. A decoded image may take `FREE_BYTES` in any
case; beyond that it may be `RATIO` times larger than its file, up to `MAX_IMAGE_BYTES`. Whatever
unpacks a stream stops at the size that the header promised.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

from medgen_jax.core.errors import UserError

#: Largest decoded image, bytes.
MAX_IMAGE_BYTES = 1 << 29
#: Largest array that `read_array` returns, bytes.
MAX_ARRAY_BYTES = 1 << 32
#: Decoded bytes that any file may have, however small it is: a blank mask of 8192 x 8192 pixels.
FREE_BYTES = 1 << 26
#: Decoded bytes per byte of a file beyond that. Pictures stay below 30, masks of few shapes below 500,
#: blank areas and bombs reach 1,000.
RATIO = 500


def check(path: Path, what: object, nbytes: int, most: int | None = None) -> None:
    """Refuse a file whose decoded form would take more than its budget.

    Args:
      path: the file, which exists.
      what: the claim in words, such as an `ImageHeader`.
      nbytes: bytes that decoding would hold.
      most: upper limit; `MAX_IMAGE_BYTES` when None.

    Raises:
      UserError: naming claim and limit.
    """
    size = path.stat().st_size
    limit = min(MAX_IMAGE_BYTES if most is None else most, max(FREE_BYTES, RATIO * size))
    if nbytes > limit:
        raise UserError(
            f"{path}: {what} need {nbytes:,} bytes, more than the limit of {limit:,} for a file of {size:,} bytes; "
            "cut it into smaller images"
        )


def read_at(stream: BinaryIO, offset: int, count: int) -> bytes:
    """Exactly ``count`` bytes at ``offset``.

    Raises:
      ValueError: when the file is shorter; nothing is allocated then.
    """
    end = stream.seek(0, os.SEEK_END)
    if offset < 0 or count < 0 or offset + count > end:
        raise ValueError(f"{count:,} bytes at {offset:,} lie beyond the end of the file, {end:,}")
    stream.seek(offset)
    return stream.read(count)


def inflate(data: bytes, limit: int, wbits: int = zlib.MAX_WBITS) -> bytes:
    """At most ``limit`` bytes of a zlib stream, or of raw deflate with negative ``wbits``."""
    return zlib.decompressobj(wbits).decompress(data, limit) if limit else b""
