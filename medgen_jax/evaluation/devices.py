"""A function of batches on all local devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from medgen_jax.engine.mesh import make_mesh, over_data, replicated

PyTree = Any


class OnDevices:
    """Functions of batches, one after the other, with the leading axis cut over the devices.

    Every call computes ``batch`` records, which is rounded up to a multiple of the devices. Shorter batches are filled
    with zeros and the filling is cut off the result, so nothing compiles twice for one size of images.

    Args:
      functions: the first is ``(constants, *arrays) -> tree``, each other one ``(constants, tree) -> tree``. Pure;
        every record of an output depends on the same record of the arrays alone. Each compiles on its own,
        so what does not depend on the size of the images compiles once.
      batch: records per call.
      devices: local devices when None.
    """

    def __init__(
        self, functions: Sequence[Callable[..., PyTree]], batch: int, devices: Sequence[jax.Device] | None = None
    ):
        self._mesh = make_mesh(devices or jax.local_devices())
        self.batch = -(-batch // self._mesh.size) * self._mesh.size
        self._functions = [jax.jit(function, out_shardings=over_data(self._mesh)) for function in functions]

    def put(self, constants: PyTree) -> PyTree:
        """Constants with a copy on every device, to be passed to many calls."""
        return jax.device_put(constants, replicated(self._mesh))

    def __call__(self, constants: PyTree, *arrays: np.ndarray) -> PyTree:
        """Results of at most ``batch`` records; device arrays, perhaps still being computed."""
        count = len(arrays[0])
        filled = [np.concatenate([a, np.zeros((self.batch - count, *a.shape[1:]), a.dtype)]) for a in arrays]
        first, *others = self._functions
        found = first(constants, *(jax.device_put(a, over_data(self._mesh)) for a in filled))
        for function in others:
            found = function(constants, found)
        return jax.tree.map(lambda x: x[:count], found)


def parts(items: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    iterator = iter(items)
    while part := tuple(itertools.islice(iterator, size)):
        yield part
