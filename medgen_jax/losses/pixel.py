"""Distances between two images of the same shape, averaged over all samples, pixels and channels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def _difference(a: jax.Array, b: jax.Array) -> jax.Array:
    # Broadcasting would turn a forgotten axis into a wrong number instead of an error.
    if a.shape != b.shape:
        raise ValueError(f"images to compare have shapes {a.shape} and {b.shape}")
    return a.astype(jnp.float32) - b.astype(jnp.float32)


def l1(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean absolute difference, float32 scalar. Its gradient is 0 where the images agree."""
    difference = _difference(a, b)
    # jnp.abs has slope 1 at 0, which would pull on pixels that are right already.
    return jnp.mean(difference * lax.stop_gradient(jnp.sign(difference)))


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared difference, float32 scalar."""
    return jnp.mean(jnp.square(_difference(a, b)))
