"""Codes and noise by number: image 7 of a key is the same in every batch, and whoever draws it."""

from __future__ import annotations

import jax


def codes(key: jax.Array, numbers: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What images of these numbers (b,) are made of, (b, *shape): N(0, 1), each drawn from ``fold_in(key, number)``."""
    return jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape))(numbers)
