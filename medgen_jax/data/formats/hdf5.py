"""Numeric data sets of HDF5 files, MATLAB files of version 7.3 included.

The library is asked for nothing that could swell: shapes and chunk sizes are checked before, and
chunks whose worst expansion exceeds the budget are unpacked here, up to the size of a chunk. Links and
data in other files are not followed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from medgen_jax.data.formats import budget
from medgen_jax.data.formats.arrays import MAX_VARIABLES, Variable

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEFLATE, _SHUFFLE = 1, 2
#: Filter -> how far it can expand data: deflate, shuffle, Fletcher sum, LZF.
_EXPANSION = {_DEFLATE: 1032, _SHUFFLE: 1, 3: 1, 32000: 90}


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, also behind the 512 bytes of text that MATLAB puts in front."""
    with path.open("rb") as stream:
        if stream.read(8) == _SIGNATURE:
            return True
        stream.seek(512)
        return stream.read(8) == _SIGNATURE


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Sequence[Variable]]:
    """Data sets of a file, which stays open inside the context.

    Raises:
      OSError, ValueError: for a damaged file.
    """
    with path.open("rb") as stream:
        matlab = stream.read(10) == b"MATLAB 7.3"
    with h5py.File(path, "r") as file:
        found: list[Variable] = []

        def collect(name: str, item: Any) -> bool | None:
            if isinstance(item, h5py.Dataset):
                found.append(_variable(path, name, item, matlab))
            # Anything but None ends the walk.
            return True if len(found) > MAX_VARIABLES else None

        file.visititems(collect)
        yield found


def _variable(path: Path, name: str, data: h5py.Dataset, matlab: bool) -> Variable:
    shape = data.shape
    if shape is None or data.dtype.kind not in "biufc" or (matlab and "MATLAB_empty" in data.attrs):
        return Variable(name, shape or (), None, lambda index: np.empty(0), "no array of numbers")
    if data.is_virtual or data.external:
        return Variable(name, shape, None, lambda index: np.empty(0), "data kept in another file")
    logical = matlab and data.attrs.get("MATLAB_class") in (b"logical", "logical")
    # MATLAB's arrays are stored with their axes reversed.
    turned = shape[::-1] if matlab else shape

    def load(index: int | None) -> np.ndarray:
        array = _read(path, data, index)
        array = array.astype(bool) if logical else array
        return array.T if matlab else array

    dtype = np.dtype(bool) if logical else data.dtype
    return Variable(name, turned, dtype, load, stacked=-1 if matlab else 0, sliced=True)


def _read(path: Path, data: h5py.Dataset, index: int | None) -> np.ndarray:
    """The whole array, or its plane ``index`` along the first stored axis."""
    selection = () if index is None else index
    if data.chunks is None:
        return data[selection]
    size = math.prod(data.chunks) * data.dtype.itemsize
    budget.check(path, f"chunks of {data.chunks}", size)
    plist = data.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    strange = [code for code in filters if code not in _EXPANSION]
    if strange:
        raise ValueError(f"{data.name} is compressed by filter {strange[0]}; save it with gzip")
    chunks: list[Any] = []
    data.id.chunk_iter(chunks.append)
    expansion = math.prod(_EXPANSION[code] for code in filters)
    if max((chunk.size for chunk in chunks), default=0) * expansion <= budget.FREE_BYTES:
        return data[selection]
    if not set(filters) <= {_DEFLATE, _SHUFFLE}:
        raise ValueError(f"{data.name} has large chunks packed by filters {filters}; save it with gzip alone")
    return _unpack(data, chunks, filters, size, index)


def _unpack(data: h5py.Dataset, chunks: Sequence[Any], filters: list[int], size: int, index: int | None) -> np.ndarray:
    """Chunk by chunk, each at most ``size`` bytes."""
    first = slice(0, data.shape[0]) if index is None else slice(index, index + 1)
    result = np.full((first.stop - first.start, *data.shape[1:]), data.fillvalue, data.dtype)
    for chunk in chunks:
        corner = chunk.chunk_offset
        if corner[0] >= first.stop or corner[0] + data.chunks[0] <= first.start:
            continue
        skipped, packed = data.id.read_direct_chunk(corner)
        for place, code in reversed(list(enumerate(filters))):
            if not skipped >> place & 1:
                packed = budget.inflate(packed, size) if code == _DEFLATE else _unshuffled(packed, data.dtype.itemsize)
        if len(packed) != size:
            raise ValueError(f"a chunk of {data.name} has {len(packed):,} bytes instead of {size:,}")
        block = np.frombuffer(packed, data.dtype).reshape(data.chunks)
        start = max(corner[0], first.start)
        block = block[start - corner[0] :]
        target = result[(slice(start - first.start, None), *(slice(at, None) for at in corner[1:]))]
        target = target[tuple(slice(0, n) for n in block.shape)]
        target[...] = block[tuple(slice(0, n) for n in target.shape)]
    return result if index is None else result[0]


def _unshuffled(packed: bytes, width: int) -> bytes:
    """Bytes of the same rank, which lie together, back to their numbers; a remainder stays at the end."""
    whole = len(packed) // width * width
    parts = np.frombuffer(packed, np.uint8, whole).reshape(width, -1)
    return parts.T.tobytes() + packed[whole:]
