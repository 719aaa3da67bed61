"""Brightness of single LEDs, found beside the object: scales c of measured amplitudes, ``gain = 1 / c^2``.

A common factor of all scales cannot be told from the brightness of the object: their geometric mean stays 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

#: Alternations of bound and mean; both hold far below a permille afterwards.
ROUNDS = 8


def fitted_scales(best: jax.Array, free: jax.Array, bound: float) -> jax.Array:
    """Scales (n,) of geometric mean 1 within ``[1 / bound, bound]``.

    Args:
      best: (n,) scales that fit best.
      free: (n,) bool, LEDs whose scale may be told: lit ones; the others keep 1.
      bound: above 1.
    """
    free = free & (best > 0)
    count, limit = jnp.maximum(jnp.sum(free), 1), jnp.log(bound)
    logs = jnp.where(free, jnp.log(jnp.where(free, best, 1.0)), 0.0)
    for _ in range(ROUNDS):
        logs = jnp.clip(jnp.where(free, logs - jnp.sum(logs) / count, 0.0), -limit, limit)
    return jnp.exp(logs)
