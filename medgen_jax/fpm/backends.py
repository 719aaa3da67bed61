"""Forms that win on one backend and lose on another, chosen here and nowhere else in this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

#: How several tiles are solved. A batch of 8 tiles takes 1.6 times as long per tile as one after the other on a CPU;
#: on accelerators one tile cannot fill the device.
TILES: dict[str, str] = {"cpu": "map", "gpu": "vmap", "tpu": "vmap"}


def over_tiles(solve: Callable[[Any], Any], tiles: Any, backend: str | None = None) -> Any:
    """``solve`` of every tile: arrays of ``tiles`` and of the result have tiles as their first axis.

    Args:
      solve: of one tile.
      tiles: a tree of arrays.
      backend: one of `TILES`. None: the one in use.
    """
    backend = backend or jax.default_backend()
    return jax.vmap(solve)(tiles) if TILES.get(backend, "vmap") == "vmap" else jax.lax.map(solve, tiles)
