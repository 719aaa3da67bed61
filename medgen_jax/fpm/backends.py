"""How several tiles are solved: forms that win on one backend and lose on another, and devices that share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

#: On one device. A batch of 8 tiles takes 1.6 times as long per tile as one after the other on a CPU; on accelerators
#: one tile cannot fill the device.
TILES: dict[str, str] = {"cpu": "map", "gpu": "vmap", "tpu": "vmap"}
#: Axis of the mesh that tiles are cut over.
AXIS = "tiles"


def at_once(most: int) -> int:
    """How many tiles are best solved in a call, where a device has memory for ``most``: as many on each."""
    each = 1 if TILES.get(jax.default_backend()) == "map" else max(1, most)
    return each * jax.local_device_count()


def over_tiles(solve: Callable[[Any], Any], tiles: Any, backend: str | None = None) -> Any:
    """``solve`` of every tile: arrays of ``tiles`` and of the result have tiles as their first axis.

    Where all local devices get equally many, each solves its own, and they tell each other nothing.

    Args:
      solve: of one tile.
      tiles: a tree of arrays.
      backend: one of `TILES`. None: the one in use.
    """
    form = TILES.get(backend or jax.default_backend(), "vmap")

    def own(tiles: Any) -> Any:
        return jax.vmap(solve)(tiles) if form == "vmap" else jax.lax.map(solve, tiles)

    if (mesh := _mesh(tiles)) is None:
        return own(tiles)
    cut = PartitionSpec(AXIS)
    return jax.shard_map(own, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)(tiles)


def placed(tiles: Any) -> Any:
    """Arrays of tiles on the devices on which `over_tiles` solves them."""
    mesh = _mesh(tiles)
    return tiles if mesh is None else jax.device_put(tiles, NamedSharding(mesh, PartitionSpec(AXIS)))


def _mesh(tiles: Any) -> Mesh | None:
    """Of all local devices; None where tiles do not go round, or for one device."""
    devices, count = jax.local_devices(), len(jax.tree.leaves(tiles)[0])
    return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 and count % len(devices) == 0 else None
