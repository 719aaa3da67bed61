"""Arrays out of pickles that are never executed: TorchScript archives, trees of NumPy arrays, modules. NumPy alone.

A pickle is a program that may name any function of the interpreter. Here it meets stand-ins: each of the
few names these files need stands for a record of ours that only remembers its arguments, and any other
name ends the reading. No code of torch, numpy or of the file runs while it is read; what was remembered is
then checked and turned into arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError

Arrays = dict[str, np.ndarray]

#: Bytes that the storages of one archive may take.
BUDGET = 512 * 2**20


class _Malformed(Exception):
    """What is wrong with the content, said without its name."""


class _Module:
    """Stands for an object of a TorchScript class: its attributes."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Storage(NamedTuple):
    """Stands for a tensor's values: their place in an archive, or their bytes; and how many they are."""

    key: str | memoryview
    count: int


class _Tensor(NamedTuple):
    """Stands for a tensor: a window on a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Array:
    """Stands for a NumPy array: its version, shape, dtype, order and bytes."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DType:
    """Stands for a NumPy dtype: its code, such as ``f4``, and byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Function:
    """Stands for a function, and cannot be altered from inside a pickle."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise _Malformed("its pickle alters a function")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise _Malformed("one of its tensors has no storage")
    return _Tensor(storage, offset, shape, strides)


class _Options(dict):
    """Stands for a dictionary with attributes."""

    def __setstate__(self, _: Any) -> None:
        """Its attributes are its entries."""


def _persistent(meta: Any) -> _Module:
    """A module that is pickled as its source code, which stays text, and its attributes."""
    kinds = ("_parameters", "_buffers", "_modules")
    state = meta.get("state") if isinstance(meta, dict) else None
    if not isinstance(state, dict) or not all(isinstance(state.get(kind), dict) for kind in kinds):
        raise _Malformed("one of its modules has no parameters, buffers and modules")
    module = _Module()
    module.attributes = {name: child for kind in kinds for name, child in state[kind].items()}
    return module


def _storage_in(content: Any) -> _Storage:
    """The values in a storage that was pickled by itself: five pickles, a count and the values.

    The pickles are the magic number, the version, sizes and byte order, the storage, and the list of its key.
    """
    if not isinstance(content, bytes):
        raise _Malformed("one of its storages has no bytes")
    parts, start = [], 0
    for _ in range(5):
        end = _end_of_pickle(content, start)
        parts.append(_unpickle(content[start:end], _LONE_STORAGE, modules=True))
        start = end
    match parts:
        case [int(magic), int(), {"little_endian": True}, _Storage(key, count), [same]]:
            counted = int.from_bytes(content[start : start + 8], "little")
            if magic == _MAGIC and key == same and count == counted and len(content) == start + 8 + 4 * count:
                return _Storage(memoryview(content)[start + 8 :], count)
    raise _Malformed("one of its storages is no little-endian float32 storage")


_MAGIC = 0x1950A86A20F9469CFC6C  # what a storage outside of an archive starts with
_FLOAT_STORAGE = _Function(lambda *_: None)  # a type that is only ever passed on

StandIns = Mapping[tuple[str, str], Callable[..., Any]]
_TORCHSCRIPT: StandIns = {
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch", "FloatStorage"): _FLOAT_STORAGE,
    ("torch.jit._pickle", "build_intlist"): _Function(lambda numbers: numbers),
    ("collections", "OrderedDict"): _Function(lambda *_: {}),
}
_LONE_STORAGE: StandIns = {("torch", "FloatStorage"): _FLOAT_STORAGE}
_MODULES: StandIns = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(_persistent),
    ("dnnlib.util", "EasyDict"): _Options,
    ("collections", "OrderedDict"): _Function(lambda *_: {}),
    ("builtins", "set"): _Function(lambda *_: None),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch.storage", "_load_from_bytes"): _Function(_storage_in),
    ("numpy.core.multiarray", "scalar"): _Function(lambda *_: None),
    ("numpy._core.multiarray", "scalar"): _Function(lambda *_: None),
    ("numpy", "dtype"): _DType,
}
_NUMPY: StandIns = {
    ("numpy.core.multiarray", "_reconstruct"): _Function(lambda *_: _Array()),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
}


class _InertUnpickler(pickle.Unpickler):
    """Resolves the names of a table to stand-ins and refuses every other name."""

    def __init__(self, content: bytes, stand_ins: StandIns, modules: bool) -> None:
        super().__init__(io.BytesIO(content))
        self._stand_ins = stand_ins
        self._modules = modules

    def find_class(self, module: str, name: str) -> Any:
        if self._modules and module.startswith("__torch__."):
            return _Module
        if (module, name) not in self._stand_ins:
            raise _Malformed(f"refused, because it asks for {module}.{name}, which is never executed")
        return self._stand_ins[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", kind, str(key), str(), int(count), *_) if self._modules and kind is _FLOAT_STORAGE:
                return _Storage(key, count)
        raise _Malformed("its pickle refers to something outside that is no float32 storage")


def read_torchscript(content: bytes, source: str) -> Arrays:
    """The float32 tensors of a TorchScript archive (``torch.jit.save``), by attribute path.

    Args:
      content: the archive, a zip.
      source: where it is from, for messages.

    Returns:
      arrays by dotted path below the outermost module, such as ``layers.conv_1.weight``. Only contiguous tensors
      are known; attributes that are no tensors are left out.

    Raises:
      UserError: damaged, too large, or in need of anything but modules and float32 tensors.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if sum(member.file_size for member in members.values()) > BUDGET:
                raise _Malformed(f"its content takes more than the {BUDGET} bytes allowed")
            pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _Malformed("it has no data.pkl, so it is no TorchScript archive")
            folder = pickles[0].removesuffix(".pkl")

            def read(name: str) -> bytes:
                if name not in members:
                    raise _Malformed(f"lacks its member {name}")
                with archive.open(members[name]) as file:
                    return file.read(members[name].file_size)

            root = _unpickle(read(pickles[0]), _TORCHSCRIPT, modules=True)
            if not isinstance(root, _Module):
                raise _Malformed("its data.pkl holds no module")
            tensors = _leaves(root, ".", _Tensor)
            return {name: _window(name, tensor, read(f"{folder}/{tensor.storage.key}")) for name, tensor in tensors}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise UserError(f"{source}: damaged or no TorchScript archive ({error or type(error).__name__})") from None
    except _Malformed as fault:
        raise UserError(f"{source}: {fault}") from None


def read_array_tree(content: bytes, source: str) -> Arrays:
    """The arrays of a pickled tree of dictionaries, such as Flax parameters, by path.

    Args:
      content: the pickle; it must end with it.
      source: where it is from, for messages.

    Returns:
      float arrays by path with slashes, such as ``VGG16_0/Conv_0/kernel``.

    Raises:
      UserError: damaged, or in need of anything but dictionaries and plain float arrays.
    """
    try:
        tree = _unpickle(content, _NUMPY, modules=False)
        if not isinstance(tree, dict):
            raise _Malformed("holds no dictionary of arrays")
        return {name: _from_state(name, array) for name, array in _leaves(tree, "/", _Array)}
    except _Malformed as fault:
        raise UserError(f"{source}: {fault}") from None


def read_modules(content: bytes, source: str) -> Arrays:
    """The float32 parameters and buffers of pickled PyTorch modules that carry their own source code, by name.

    The snapshots of StyleGAN2-ADA and of what followed it are such files. The code in them is never run.

    Args:
      content: the pickle of a dictionary of modules.
      source: where it is from, for messages.

    Returns:
      arrays by module and name, such as ``G_ema.mapping.fc0.weight``.

    Raises:
      UserError: damaged, too large, or in need of anything but such modules, plain values and float32 tensors.
    """
    try:
        if len(content) > BUDGET:
            raise _Malformed(f"takes more than the {BUDGET} bytes allowed")
        root = _unpickle(content, _MODULES, modules=False)
        if not isinstance(root, dict):
            raise _Malformed("holds no dictionary of modules")
        return {name: _window(name, tensor, tensor.storage.key) for name, tensor in _leaves(root, ".", _Tensor)}
    except _Malformed as fault:
        raise UserError(f"{source}: {fault}") from None


def _end_of_pickle(content: bytes, start: int) -> int:
    stream = io.BytesIO(content)
    stream.seek(start)
    try:
        *_, (_, _, stop) = pickletools.genops(stream)
    except Exception as error:  # as in `_unpickle`
        raise _Malformed(f"one of its storages is damaged ({type(error).__name__})") from None
    return stop + 1


def _unpickle(content: bytes, stand_ins: StandIns, modules: bool) -> Any:
    try:
        # A memo slot is made by its number: one opcode of five bytes could ask for 70 GB.
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("PUT", "LONG_BINPUT") and argument > len(content):
                raise _Malformed(f"its pickle asks for {argument} places in memory")
        return _InertUnpickler(content, stand_ins, modules).load()
    except _Malformed:
        raise
    except Exception as error:  # damaged pickles raise whatever the stand-ins and the stack machine come upon
        raise _Malformed(f"its pickle is damaged ({type(error).__name__}: {str(error)[:80]})") from None


def _leaves(root: Any, separator: str, kind: type) -> list[tuple[str, Any]]:
    """Every ``kind`` below a tree of dictionaries and modules with its path; a shared node is no tree."""
    found, seen, todo = [], set(), [("", root)]
    while todo:
        path, node = todo.pop()
        if isinstance(node, kind):
            found.append((path, node))
            continue
        children = getattr(node, "attributes", None) if isinstance(node, _Module) else node
        if not isinstance(children, dict):
            continue
        if id(children) in seen:
            raise _Malformed(f"two places hold the same branch, the second is {path}")
        if not all(isinstance(key, str) for key in children):
            raise _Malformed(f"a branch at {path} has names that are no text")
        seen.add(id(children))
        todo += [(f"{path}{separator}{key}" if path else key, child) for key, child in reversed(children.items())]
    return found


def _window(name: str, tensor: _Tensor, content: bytes | memoryview) -> np.ndarray:
    """The float32 array that a tensor shows of the bytes of its storage."""
    storage, offset, shape, strides = tensor
    if not _is_shape(shape) or not _is_shape(strides) or not _is_shape((offset,)):
        raise _Malformed(f"tensor {name} has a shape that cannot be")
    contiguous = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if strides != contiguous:
        raise _Malformed(f"tensor {name} is not contiguous")
    size = math.prod(shape)
    if len(content) != 4 * storage.count or offset + size > storage.count:
        raise _Malformed(f"tensor {name} does not fit its storage of {len(content)} bytes")
    return np.frombuffer(content, "<f4", size, 4 * offset).reshape(shape)


def _from_state(name: str, array: _Array) -> np.ndarray:
    """The array that the pickled state of a NumPy array describes."""
    match getattr(array, "state", None):
        case (int(), tuple(shape), _DType(code="f2" | "f4" | "f8" as code, order="<"), bool(fortran), bytes(content)):
            if _is_shape(shape) and math.prod(shape) * int(code[1]) == len(content):
                return np.frombuffer(content, f"<{code}").reshape(shape, order="F" if fortran else "C")
    raise _Malformed(f"array {name} is no plain little-endian float array, or its bytes are not those of its shape")


def _is_shape(numbers: Any) -> bool:
    return isinstance(numbers, tuple) and all(type(n) is int and n >= 0 for n in numbers)
