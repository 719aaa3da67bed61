"""Weight packs: named float arrays of one dtype in an ``.npz`` that compresses well. NumPy alone, no pickles.

Member ``meta`` is JSON as bytes: ``dtype`` (``<f4`` or ``<f2``) and ``index``, a list of name, shape and
offset in elements. Members ``plane0``, ``plane1``, ... are the byte planes of the flat little-endian array:
byte k of every element. Signs and exponents of trained weights repeat, so their plane shrinks; mantissas
do not, and next to exponents they would hide the pattern.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from medgen_jax.core.errors import UserError

DTYPES = ("<f2", "<f4")
#: Largest size of a file's content in memory; the largest pack in use takes 87 MB.
BUDGET = 512 * 2**20

Arrays = dict[str, np.ndarray]


class _Malformed(Exception):
    """What is wrong with a file, said without its name."""


def read_pack(path: str | Path, budget: int = BUDGET, remedy: str = "get the weight pack anew") -> Arrays:
    """The arrays of a pack by name, float16 or float32, in the order of its index.

    Args:
      path: file written by `write_pack`.
      budget: bytes that the unpacked content may take; checked before anything is unpacked.
      remedy: end of every error message.

    Raises:
      UserError: no such file, another kind of file, damaged, or larger than the budget.
    """
    try:
        return _assemble(_members(Path(path), budget))
    except _Malformed as fault:
        raise UserError(f"{path}: {fault}; {remedy}") from None


def read_npz(path: str | Path, budget: int = BUDGET, remedy: str = "get the file anew") -> Arrays:
    """The arrays of an ordinary ``.npz`` by name; arguments and errors as in `read_pack`."""
    try:
        return _members(Path(path), budget)
    except _Malformed as fault:
        raise UserError(f"{path}: {fault}; {remedy}") from None


def write_pack(path: str | Path, arrays: Mapping[str, np.ndarray], dtype: str = "<f4") -> None:
    """Write arrays as a pack: whole or not at all, the same bytes for the same arrays.

    Args:
      path: file to write; its folder is created.
      arrays: real arrays by name; they are rounded to ``dtype`` (to nearest, ties to even).
      dtype: ``<f4`` or ``<f2``.

    Raises:
      UserError: another dtype, nothing to write, a value that is not finite in ``dtype``, or a file that
        cannot be written.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise UserError(f"{path}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    rounded = _rounded(path, arrays, dtype)
    index, offset = [], 0
    for name, array in rounded.items():
        index.append([name, list(array.shape), offset])
        offset += array.size
    flat = np.concatenate([array.reshape(-1) for array in rounded.values()])
    planes = flat.view(np.uint8).reshape(-1, flat.itemsize)
    meta = np.frombuffer(json.dumps({"dtype": dtype, "index": index}).encode(), np.uint8)
    members = {f"plane{k}": np.ascontiguousarray(planes[:, k]) for k in range(flat.itemsize)}
    scratch = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            np.savez_compressed(file, meta=meta, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be written ({reason}); free space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, dtypes, shapes and little-endian bytes, in the order of the sorted names.

    It depends on the content alone: not on compression, memory layout or the order of the mapping.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        total.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        total.update(array.reshape(-1).view(np.uint8))
    return total.hexdigest()


def _rounded(path: Path, arrays: Mapping[str, np.ndarray], dtype: str) -> Arrays:
    if not arrays:
        raise UserError(f"{path}: there are no arrays to write")
    rounded = {}
    for name in sorted(arrays):
        with np.errstate(over="ignore"):  # an overflow becomes inf, which is refused by name
            rounded[name] = np.asarray(arrays[name]).astype(dtype)
        if not np.isfinite(rounded[name]).all():
            raise UserError(f"{path}: {name} holds values that are not finite in {dtype}; choose {DTYPES[-1]}")
    return rounded


def _members(path: Path, budget: int) -> Arrays:
    """Every array of an ``.npz``; sizes are checked before a byte is unpacked."""
    if not path.is_file():
        raise _Malformed("no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > budget:
                raise _Malformed(f"its content takes {size} bytes, more than the {budget} allowed")
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = _read_array(file, member)
            return arrays
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise _Malformed(f"damaged or not an .npz ({error or type(error).__name__})") from None
    except OSError as error:
        raise _Malformed(f"cannot be read ({error.strerror or error})") from None


def _read_array(file: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray:
    """One ``.npy``, whose header must account for every byte before memory is asked for."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](file)
    except (ValueError, KeyError) as error:
        raise _Malformed(f"member {member.filename} is no array ({error})") from None
    if dtype.hasobject:
        raise _Malformed(f"member {member.filename} holds Python objects, which are never loaded")
    size = math.prod(shape) * dtype.itemsize
    if size != member.file_size - file.tell():
        raise _Malformed(f"member {member.filename} says {size} bytes and has {member.file_size - file.tell()}")
    # A bounded read: without a number a lying entry could unpack to gigabytes. Its end checks the CRC.
    content = np.frombuffer(file.read(size), dtype)
    return content.reshape(shape, order="F" if fortran else "C")


def _assemble(members: Arrays) -> Arrays:
    """The arrays behind ``meta`` and the planes, of which every element must belong to one array."""
    if "meta" not in members:
        raise _Malformed("has no member meta, so it is no weight pack")
    dtype, index = _parse_meta(members["meta"])
    names = [f"plane{k}" for k in range(dtype.itemsize)]
    if set(members) != {"meta", *names}:
        raise _Malformed(f"has members {', '.join(members)} where dtype {dtype.str} needs meta, {', '.join(names)}")
    planes = [members[name] for name in names]
    if any(plane.dtype != np.uint8 or plane.ndim != 1 or plane.size != planes[0].size for plane in planes):
        raise _Malformed("its planes are not byte vectors of one length")
    flat = np.stack(planes, axis=1).view(dtype)[:, 0]
    arrays, position = {}, 0
    for name, shape, offset in index:
        end = position + math.prod(shape)
        if name in arrays or offset != position or end > flat.size:
            raise _Malformed(f"its index is wrong at {name}")
        arrays[name], position = flat[position:end].reshape(shape), end
    if position != flat.size:
        raise _Malformed(f"its index names {position} of {flat.size} elements")
    return arrays


def _parse_meta(meta: np.ndarray) -> tuple[np.dtype, list[tuple[str, tuple[int, ...], int]]]:
    try:
        content: Any = json.loads(meta.tobytes())
        dtype, index = content["dtype"], [(name, tuple(shape), offset) for name, shape, offset in content["index"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Malformed(f"its member meta cannot be read ({type(error).__name__})") from None
    if dtype not in DTYPES:
        raise _Malformed(f"its dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    for name, shape, offset in index:
        numbers = (*shape, offset)
        if not isinstance(name, str) or any(type(n) is not int or n < 0 for n in numbers):
            raise _Malformed(f"its index is wrong at {name}")
    return np.dtype(dtype), index
