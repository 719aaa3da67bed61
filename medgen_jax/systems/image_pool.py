"""The history of generated images that a discriminator is shown (Shrivastava et al. 2017; CycleGAN, section 4).

While the pool fills, every image is stored and returned. Afterwards, with probability one half, an
image is returned as it is; else a random stored one is returned and the image takes its place. Images
of a batch are queried one after the other, as if each were its own step.

An image may therefore come back for any later one, on whichever device that lies. On several devices every one of them
holds the whole pool and plays the same exchange, for which it is told the whole batch, once.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.parallel import on_every_device, over_batch


def empty(size: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """A pool of ``size`` images of ``shape`` (h, w, c); one of size 0 holds nothing and hands every image back."""
    if not size:
        return {}
    return {"images": jnp.zeros((size, *shape), jnp.float32), "filled": jnp.zeros((), jnp.int32)}


def query(pool: dict[str, Any], images: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    """Show a batch to the pool.

    Args:
      pool: what `empty` or `query` returned.
      images: (b, h, w, c) float32.
      key: decides which images are swapped.

    Returns:
      (b, h, w, c), each either the image at that place or an older one; and the new pool.
    """
    if not pool:
        return images, pool
    size = pool["images"].shape[0]

    def one(pool: dict[str, Any], item: tuple[jax.Array, jax.Array]) -> tuple[dict[str, Any], jax.Array]:
        image, key = item
        swap_key, place_key = jax.random.split(key)
        filling = pool["filled"] < size
        swap = ~filling & jax.random.bernoulli(swap_key)
        place = jnp.where(filling, pool["filled"], jax.random.randint(place_key, (), 0, size))
        stored = lax.dynamic_index_in_dim(pool["images"], place, keepdims=False)
        kept = jnp.where(filling | swap, image, stored)
        new = {
            "images": lax.dynamic_update_index_in_dim(pool["images"], kept, place, 0),
            "filled": pool["filled"] + filling.astype(jnp.int32),
        }
        return new, jnp.where(swap, stored, image)

    every = on_every_device(images.astype(jnp.float32))
    pool, shown = lax.scan(one, pool, (every, jax.random.split(key, len(images))))
    # The loop stays whole; from its end on, each device goes on with its own images.
    return over_batch(on_every_device(shown)), pool
