"""Images in compiled batches of one size, cut over all devices; one is drawn while the one before it is fetched."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.engine import mesh as meshes
from medgen_jax.ops.scale import from_unit
from medgen_jax.synthesis.runs import CODE, NUMBER
from medgen_jax.systems.numbered import codes
from medgen_jax.translation import batching

PyTree = Any
T = TypeVar("T")
#: What differs from image to image: input -> value.
Row = Mapping[str, np.ndarray]
#: ``(variables, batch of rows, key) -> (levels (b, h, w, c) uint8 or uint16, which of them are finite (b,))``.
Draw = Callable[[PyTree, Mapping[str, jax.Array], jax.Array], tuple[jax.Array, jax.Array]]

#: Images per call and device, where nothing is said and they fit.
MOST_CPU, MOST = 16, 64


def make_draw(function: Any, inputs: Mapping[str, Field], constants: Mapping[str, np.ndarray], dtype: Any) -> Draw:
    """A sampler as a function of what differs from image to image.

    An image depends on its number and the key, never on the batch: by the sampler's ``number``, or by its ``z``, which
    is drawn from the number unless rows hold it.

    Args:
      function: ``(variables, inputs, key) -> images`` in [-1, 1].
      inputs: what it takes.
      constants: of these, what is the same for all images.
      dtype: of the levels, ``uint8`` or ``uint16``.
    """

    def draw(variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        count = next(iter(batch.values())).shape[0]
        given = {name: jnp.full((count,), value, value.dtype) for name, value in constants.items()}
        given |= {name: batch[name] for name in inputs if name in batch}
        if CODE in inputs and CODE not in given:
            given[CODE] = codes(key, batch[NUMBER], inputs[CODE].shape)
        made = function(variables, given, key)
        return from_unit(made, dtype), jnp.isfinite(made).all(axis=(1, 2, 3))

    return draw


@dataclass(frozen=True, eq=False)
class Program:
    """A drawing function, compiled for one size of batches.

    Attributes:
      call: `Draw`, compiled.
      variables, key: its arguments, on every device.
      size: images per call, over all devices.
    """

    call: Any
    variables: PyTree
    key: jax.Array
    size: int

    def images(self, rows: Iterable[tuple[T, Row]]) -> Iterator[tuple[T, np.ndarray]]:
        """The image (h, w, c) of every row, in their order, beside whatever came with the row.

        Raises:
          UserError: an image that is not finite, or a batch that does not fit into memory.
        """
        stream, waiting = iter(rows), None
        while part := list(itertools.islice(stream, self.size)):
            sent = self._send(part)
            yield from self._fetch(waiting)
            waiting = sent
        yield from self._fetch(waiting)

    def _send(self, part: Sequence[tuple[T, Row]]) -> tuple[list[T], jax.Array, jax.Array]:
        """Start a batch; a short one is filled up with its last row."""
        filled = [part[min(i, len(part) - 1)][1] for i in range(self.size)]
        batch = {name: np.stack([row[name] for row in filled]) for name in filled[0]}
        with _fitting(self.size):
            levels, finite = self.call(self.variables, batch, self.key)
        for array in (levels, finite):
            array.copy_to_host_async()
        return [tag for tag, _ in part], levels, finite

    def _fetch(self, sent: tuple[list[T], jax.Array, jax.Array] | None) -> Iterator[tuple[T, np.ndarray]]:
        if sent is None:
            return
        tags, *arrays = sent
        with _fitting(self.size):
            levels, finite = map(np.asarray, arrays)
        if not finite[: len(tags)].all():
            raise UserError("the run draws images that are not finite; try another --checkpoint, or train again")
        yield from zip(tags, levels, strict=False)


def compile_batch(
    draw: Draw,
    variables: PyTree,
    row: Row,
    seed: int,
    *,
    count: int,
    batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Compile for batches that fit into memory.

    Args:
      draw: of `make_draw`.
      variables: of its sampler.
      row: one of those that will come: for shapes and dtypes.
      seed: of the key.
      count: images there will be; batches are no larger.
      batch: images per call, rounded up to a multiple of the devices; None: as many as are worth it and fit.
      devices: all of this process when None.
    """
    mesh = meshes.make_mesh(jax.local_devices() if devices is None else devices)
    everywhere, cut, width = meshes.replicated(mesh), meshes.over_data(mesh), mesh.size
    jitted = jax.jit(draw, in_shardings=(everywhere, cut, everywhere), out_shardings=cut)
    variables, key = jax.device_put((variables, jax.random.key(seed)), everywhere)
    most = width * (MOST_CPU if jax.default_backend() == "cpu" else MOST)
    size = -(-min(batch or most, count) // width) * width
    while True:
        specs = {name: jax.ShapeDtypeStruct((size, *np.shape(x)), np.asarray(x).dtype) for name, x in row.items()}
        call = jitted.lower(variables, specs, key).compile()
        needed, free = _bytes(call), batching.SHARE * batching.free_bytes()
        if batch is not None or needed <= free or size == width:
            return Program(call, variables, key, size)
        size = max(width, int(size * free / needed) // width * width)


def _bytes(compiled: Any) -> int:
    """Scratch and results of one call on one device; 0 where the compiler does not say."""
    memory = compiled.memory_analysis()
    return 0 if memory is None else memory.output_size_in_bytes + memory.temp_size_in_bytes


@contextlib.contextmanager
def _fitting(size: int) -> Iterator[None]:
    """Turn the runtime's word for too little memory into advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        remedy = "give a smaller --batch" if size > 1 else "a larger device is needed"
        raise UserError(f"{size} images at once do not fit into memory: {remedy}") from error
