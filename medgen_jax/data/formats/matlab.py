"""Numeric arrays of MATLAB files of level 5 (``-v6``, ``-v7``), read from the format's definition.

A file is a header of 128 bytes and a row of data elements, each a matrix, often deflated. Of a matrix
only flags, dimensions and name are read until its numbers are wanted; cells, structures, text and
sparse matrices are named but never read. (MATLAB 5 MAT-File Format, The MathWorks.)
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from medgen_jax.data.formats import budget
from medgen_jax.data.formats.arrays import MAX_VARIABLES, Variable

_COMPRESSED, _MATRIX = 15, 14
#: Type of stored numbers -> dtype. MATLAB stores doubles that are whole in fewer bytes.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
#: Class of an array -> dtype.
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_OTHERS = {1: "a cell array", 2: "a structure", 3: "an object", 4: "text", 5: "a sparse matrix"}
#: Flags, dimensions and name of a matrix lie within its first bytes.
_HEAD = 1 << 16


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Sequence[Variable]]:
    """Variables of a file, which stays open inside the context.

    Raises:
      ValueError: for a damaged file, or one of an older kind.
    """
    with path.open("rb") as stream:
        yield _variables(stream)


class _Matrix(NamedTuple):
    """Where the bytes of a matrix are: ``count`` at ``offset``, deflated or plain."""

    stream: BinaryIO
    offset: int
    count: int
    deflated: bool
    order: str

    def start(self, limit: int) -> bytes:
        """At most the first ``limit`` bytes, tag included."""
        # Data that cannot be deflated take a thousandth more than their size.
        wanted = limit + limit // 1000 + 64 if self.deflated else limit
        packed = budget.read_at(self.stream, self.offset, min(wanted, self.count))
        return budget.inflate(packed, limit) if self.deflated else packed


def _variables(stream: BinaryIO) -> list[Variable]:
    end = stream.seek(0, os.SEEK_END)
    if end < 128:
        raise ValueError("it is shorter than the header of a MATLAB file")
    order = {b"IM": "<", b"MI": ">"}.get(budget.read_at(stream, 126, 2))
    if order is None:
        raise ValueError("it is no MATLAB file of version 5 or later; save it with -v7")
    found, position = [], 128
    while position + 8 <= end and len(found) <= MAX_VARIABLES:
        kind, count = struct.unpack(order + "II", budget.read_at(stream, position, 8))
        if kind not in (_COMPRESSED, _MATRIX) or position + 8 + count > end:
            raise ValueError(f"its element at byte {position} is damaged")
        if kind == _COMPRESSED:
            matrix = _Matrix(stream, position + 8, count, True, order)
        else:
            matrix = _Matrix(stream, position, count + 8, False, order)
        found.append(_variable(matrix))
        position += 8 + count
    return found


def _element(data: bytes, at: int, order: str) -> tuple[int, int, int, int]:
    """Type, start, size and end (padded) of the data element at a position."""
    kind, count = struct.unpack_from(order + "II", data, at)
    if kind >> 16:  # small format: size and up to four bytes of data within the tag
        return kind & 0xFFFF, at + 4, kind >> 16, at + 8
    return kind, at + 8, count, at + 8 + (count + 7) // 8 * 8


def _variable(matrix: _Matrix) -> Variable:
    order, head = matrix.order, matrix.start(_HEAD)
    kind, _, _, _ = _element(head, 0, order)
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} stands where a matrix should be")
    _, at, _, after = _element(head, 8, order)
    flags = struct.unpack_from(order + "I", head, at)[0]
    _, at, count, after = _element(head, after, order)
    shape = struct.unpack_from(f"{order}{count // 4}i", head, at)
    _, at, count, after = _element(head, after, order)
    name = head[at : at + count].decode("latin-1")
    if any(n < 0 for n in shape):
        raise ValueError(f"{name} has the shape {shape}")
    if flags & 0xFF not in _CLASSES:
        return Variable(name, shape, None, lambda index: np.empty(0), _OTHERS.get(flags & 0xFF, "a MATLAB object"))
    is_complex, is_logical = bool(flags & 0x800), bool(flags & 0x200)
    dtype = np.dtype(bool) if is_logical else np.dtype(_CLASSES[flags & 0xFF])
    whole = np.result_type(dtype, np.complex64) if is_complex else dtype

    def load(index: int | None) -> np.ndarray:
        count = math.prod(shape)
        # Twice for complex numbers; a part is at most eight bytes a number, whatever its class.
        limit = after + (1 + is_complex) * (8 * count + 16)
        data = matrix.start(limit)
        array, end = _numbers(data, after, count, order)
        if is_complex:
            array = array.astype(whole) + 1j * _numbers(data, end, count, order)[0]
        array = array.astype(whole).reshape(shape, order="F")
        return array if index is None else array[..., index]

    return Variable(name, shape, whole, load, stacked=-1)


def _numbers(data: bytes, at: int, count: int, order: str) -> tuple[np.ndarray, int]:
    kind, at, size, end = _element(data, at, order)
    stored = np.dtype(_STORED[kind]).newbyteorder(order)
    if size != count * stored.itemsize or at + size > len(data):
        raise ValueError(f"{count:,} numbers are promised, the data end early or have another size")
    return np.frombuffer(data, stored, count, at), end
