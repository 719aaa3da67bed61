"""Arrays as images: NPY and NPZ here, MAT and HDF5 through their own files.

Numbers only: nothing is unpickled. Of several arrays one is chosen by name (``file.npz#phase``), or it is
the only one that could be an image. An image is HW or HWC with 1 or 3 channels; of a stack one plane
is chosen (``file.npy#3``, ``file.h5#stack[3]``), counted along the first axis, in MATLAB files along
the last. True and false become 255 and 0.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import budget
from medgen_jax.data.formats.samples import (
    Described,
    ImageHeader,
    Source,
    View,
    hwc,
    plan,
    to_levels,
)

#: Members of a container that are looked at.
MAX_VARIABLES = 1000


class Variable(NamedTuple):
    """An array inside a file, not yet loaded.

    Attributes:
      name: empty in files of one nameless array.
      shape, dtype: dtype None stands for anything but numbers.
      load: ``load(index)`` gives the array, or one plane of it without reading the rest.
      kind: what it is in words, where that is not a number.
      stacked: axis along which planes are counted.
      sliced: whether a plane is read alone.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    load: Callable[[int | None], np.ndarray]
    kind: str = ""
    stacked: int = 0
    sliced: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 0)

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape)) or "scalar"
        return f"{self.name or 'array'} ({size} {self.dtype.name if self.dtype is not None else self.kind})"


def describe(source: Source, view: View) -> Described:
    """Size, type and range from the container's own header."""
    with _chosen(source) as (source, variable):
        dtype = _sample_type(source, variable)
        shape, held = _plane(source, variable)
        bits, span = plan(source, dtype, view)
        return Described(ImageHeader(*shape, bits), span, held)


def decode(source: Source, view: View) -> np.ndarray:
    """Levels, HWC."""
    with _chosen(source) as (source, variable):
        array = variable.load(source.index)
    array = array.astype(np.uint8) * np.uint8(255) if array.dtype == bool else array
    array = hwc(array.astype(array.dtype.newbyteorder("="), copy=False))
    bits, span = plan(source, array.dtype, view)
    return to_levels(source, array, bits, span, view.nan)


def load(source: Source, max_bytes: int) -> np.ndarray:
    """The chosen array as it is, whole unless an index chooses a plane of it."""
    with _chosen(source) as (source, variable):
        _require_numbers(source, variable)
        if source.index is not None:
            _check_index(source, variable)
        budget.check(source.path, variable, _held(source, variable), max_bytes)
        array = variable.load(source.index)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def encode_npy(array: np.ndarray) -> bytes:
    """An NPY file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


# ---- choosing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _chosen(source: Source) -> Iterator[tuple[Source, Variable]]:
    """The wanted variable of an opened file, and the source with its name."""
    with _opened(source.path) as variables:
        variable, index = _pick(source, variables)
        yield source._replace(name=variable.name, index=index), variable


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Sequence[Variable]]:
    with path.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(b"\x93NUMPY"):
        with path.open("rb") as stream:
            yield [_npy_variable(stream)]
    elif start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            yield _npz_variables(archive)
    elif path.suffix.lower() == ".mat" or start == b"\x89HDF\r\n\x1a\n":
        # Imported here: HDF5 is a large library, and `matlab` needs this file's Variable.
        from medgen_jax.data.formats import hdf5, matlab

        with (hdf5.opened if hdf5.is_hdf5(path) else matlab.opened)(path) as variables:
            yield variables
    else:
        raise ValueError("it is no NPY, NPZ, MAT or HDF5 file")


def _pick(source: Source, variables: Sequence[Variable]) -> tuple[Variable, int | None]:
    if len(variables) > MAX_VARIABLES:
        raise UserError(f"{source}: holds more than {MAX_VARIABLES} arrays; save the one that is wanted alone")
    if [v.name for v in variables] == [""] and source.name.isdecimal():
        # An array without a name: the number can only be a plane.
        return variables[0], int(source.name)
    if source.name:
        named = [v for v in variables if v.name == source.name]
        if not named:
            raise UserError(f"{source}: there is no such array; the file holds {_list(variables)}")
        return named[0], source.index
    likely = [v for v in variables if v.dtype is not None and sum(n > 1 for n in v.shape) >= 2]
    choice = likely if len(likely) == 1 else variables
    if len(choice) == 1:
        return choice[0], source.index
    candidates = _list(likely or variables)
    raise UserError(f"{source}: choose an array with {source.path.name}#NAME; the file holds {candidates}")


def _list(variables: Sequence[Variable]) -> str:
    """The largest first."""
    shown = [str(v) for v in sorted(variables, key=lambda v: -v.nbytes)[:8]]
    return ", ".join(shown + ["..."] * (len(variables) > 8)) or "none"


# ---- as an image ---------------------------------------------------------------------------------


def _require_numbers(source: Source, variable: Variable) -> None:
    if variable.dtype is None or variable.dtype.kind not in "biufc":
        kind = variable.kind or f"{variable.dtype} values"
        raise UserError(f"{source}: holds {kind}; only arrays of numbers are read")


def _sample_type(source: Source, variable: Variable) -> np.dtype:
    _require_numbers(source, variable)
    if variable.dtype.kind == "c":
        raise UserError(f"{source}: holds complex values; save the amplitude or the phase")
    return np.dtype(np.uint8) if variable.dtype == bool else variable.dtype.newbyteorder("=")


def _check_index(source: Source, variable: Variable) -> None:
    if len(variable.shape) < 3:
        raise UserError(f"{source}: {variable} is no stack of planes; leave the index out")
    planes = variable.shape[variable.stacked]
    if source.index >= planes:
        raise UserError(f"{source}: {variable} has {planes} planes, counted from 0; there is no such one")


def _plane(source: Source, variable: Variable) -> tuple[tuple[int, int, int], int]:
    """Height, width and channels of the chosen image, and the bytes that loading holds."""
    shape = list(variable.shape)
    if source.index is not None:
        _check_index(source, variable)
        del shape[variable.stacked]
    image = (*shape, 1) if len(shape) == 2 else tuple(shape)
    if len(image) != 3 or image[-1] not in (1, 3):
        if len(image) in (3, 4) and source.index is None:
            where = f"{variable.name}[0]" if variable.name else "0"
            planes = f"{shape[variable.stacked]} planes; choose one with {source.path.name}#{where}"
            raise UserError(f"{source}: {variable} is a stack of {planes}")
        raise UserError(f"{source}: {variable} is no image of HW or HWC with 1 or 3 channels")
    return image, _held(source, variable)


def _held(source: Source, variable: Variable) -> int:
    planes = variable.shape[variable.stacked] if source.index is not None and variable.sliced else 1
    return variable.nbytes // max(1, planes)


# ---- NPY and NPZ ---------------------------------------------------------------------------------


def _npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    # Version 3 differs from 2 in the encoding of field names, which no plain array has.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _npy_variable(stream: BinaryIO, name: str = "") -> Variable:
    """The array of an NPY stream, opened at its start."""
    shape, fortran, dtype = _npy_header(stream)
    start = stream.tell()
    if dtype.hasobject or dtype.kind not in "biufc":
        kind = "pickled Python objects" if dtype.hasobject else f"{dtype} values"
        return Variable(name, shape, None, lambda index: np.empty(0), kind)
    if any(n < 0 for n in shape):
        raise ValueError(f"its shape is {shape}")

    def load(index: int | None) -> np.ndarray:
        if index is None or fortran:
            count, offset, wanted = math.prod(shape), start, shape
        else:
            count, wanted = math.prod(shape[1:]), shape[1:]
            offset = start + index * count * dtype.itemsize
        data = np.frombuffer(budget.read_at(stream, offset, count * dtype.itemsize), dtype)
        array = data.reshape(wanted[::-1]).T if fortran else data.reshape(wanted)
        return array[index] if fortran and index is not None else array

    return Variable(name, shape, dtype, load, sliced=not fortran)


def _npz_variables(archive: zipfile.ZipFile) -> list[Variable]:
    members = [info for info in archive.infolist() if not info.is_dir()]
    return [_npz_variable(archive, info) for info in members[: MAX_VARIABLES + 1]]


def _npz_variable(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Variable:
    name = info.filename.removesuffix(".npy")
    # The other methods unpack whole blocks at once, whatever size is asked for.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its member {name} is compressed by method {info.compress_type}, which NPZ files do not use")
    with archive.open(info) as stream:
        if stream.read(6) != b"\x93NUMPY":
            return Variable(name, (), None, lambda index: np.empty(0), "no NPY data")
    with archive.open(info) as stream:
        variable = _npy_variable(stream, name)
        start = stream.tell()
    if variable.dtype is not None and start + variable.nbytes != info.file_size:
        raise ValueError(f"{variable} needs {start + variable.nbytes:,} bytes, its member has {info.file_size:,}")

    def load(index: int | None) -> np.ndarray:
        with archive.open(info) as stream:
            # The size that was just compared bounds what is unpacked; without it all of the stream would be.
            data = stream.read(info.file_size)
        array = _npy_variable(io.BytesIO(data), name).load(None)
        return array if index is None else array[index]

    return variable._replace(load=load, sliced=False)
