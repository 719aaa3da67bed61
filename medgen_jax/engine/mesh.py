"""One data axis over all devices: the same code on one device and on many hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medgen_jax.core.errors import UserError
from medgen_jax.core.parallel import AXIS

PyTree = Any


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh ``("data",)`` over ``devices`` (all of them when None).

    The axis is Auto: with Explicit axes, which newer jax takes by default, Linen's Dropout raises.
    """
    devices = list(devices if devices is not None else jax.devices())
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """The leading axis is cut over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Refuse a batch size that the devices cannot share, naming the nearest ones they can."""
    n = mesh.size
    if size % n:
        near = [v for v in (size // n * n, (size // n + 1) * n) if v]
        raise UserError(
            f"stream {name!r} takes {size} records a step, which {n} devices cannot share equally: "
            f"set config.train.batch_size to {' or '.join(map(str, near))}"
        )


def put_local(batch: PyTree, mesh: Mesh) -> PyTree:
    """Turn this process's part of a batch into global arrays cut over the data axis."""
    sharding = over_data(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def abstract(tree: PyTree, mesh: Mesh) -> PyTree:
    """Shapes and dtypes of a replicated tree, as a restore target."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
