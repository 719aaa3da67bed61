"""Data parallelism inside a step: what a step draws is cut over the devices like the records that it is given.

An array that is made inside of a jitted function belongs to no device in particular. Left to itself, the compiler gives
all of it to every device, and every device then does all of the work that depends on it alone: a generator that is fed
with noise runs in full everywhere. These two functions say where such arrays lie. They look for the mesh that is in
context while a function is traced, as `medgen_jax.engine.step.lowered` sets it; values never change.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

PyTree = Any

#: Axis of the mesh that batches are cut over.
AXIS = "data"


def over_batch(tree: PyTree) -> PyTree:
    """Arrays (b, ...), each cut over the devices along its first axis.

    Arrays whose first axis the devices cannot share equally stay as they are. So do all of them on one device, where
    no mesh is in context, or where its axis `AXIS` is missing or not the compiler's to arrange.
    """
    devices = _devices()

    def cut(x: jax.Array) -> jax.Array:
        return x if x.shape[0] % devices else jax.lax.with_sharding_constraint(x, PartitionSpec(AXIS))

    return tree if devices == 1 else jax.tree.map(cut, tree)


def on_every_device(tree: PyTree) -> PyTree:
    """Arrays, each of them whole on every device: before a loop over records, say, whose turns depend on each other.

    Leaves everything as it is where `over_batch` does.
    """
    whole = PartitionSpec()
    return tree if _devices() == 1 else jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), tree)


def _devices() -> int:
    """Over how many devices the mesh in context cuts batches; 1 where there is none, or not for us to say."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return mesh.shape[AXIS] if kinds.get(AXIS) is AxisType.Auto else 1
