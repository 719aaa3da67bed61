"""How far a solution is from its measurements: relative squared error of amplitudes.

    residual = sum_i ||psi_i| - c_i A_i|^2 / sum_i |c_i A_i|^2

A is the measured amplitude and c its LED's scale, ``1 / sqrt(gain)``. With the scales that fit best, one by one,
``c_i = <|psi_i|, A_i> / <A_i, A_i>``, it compares solvers whatever they made of the brightness of LEDs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Misfit(NamedTuple):
    """Sums over the pixels of one LED, or arrays of them over LEDs; all float32.

    Attributes:
      error: ``sum (|psi| - c A)^2`` with the scale in use.
      energy: ``sum (c A)^2``.
      best_scale: the scale that fits best.
      best_error, best_energy: the same sums with that scale.
    """

    error: jax.Array
    energy: jax.Array
    best_scale: jax.Array
    best_error: jax.Array
    best_energy: jax.Array


def misfit(size: jax.Array, amplitude: jax.Array, weight: jax.Array, scale: jax.Array) -> Misfit:
    """Sums of one LED.

    Args:
      size: (N, N), ``|psi|``.
      amplitude: (N, N), measured.
      weight: (N, N), 0 for pixels that do not count.
      scale: (), c.
    """
    square = jnp.sum(weight * amplitude**2)
    best = jnp.where(square > 0, jnp.sum(weight * size * amplitude) / jnp.where(square > 0, square, 1.0), scale)
    error, best_error = (jnp.sum(weight * (size - c * amplitude) ** 2) for c in (scale, best))
    return Misfit(error, scale**2 * square, best, best_error, best**2 * square)


def residual(sums: Misfit, among: jax.Array) -> jax.Array:
    """Residual over the LEDs whose ``among`` (n,) is 1, with the scales in use; NaN where there are none."""
    return jnp.sum(among * sums.error) / jnp.sum(among * sums.energy)


def residual_best_gain(sums: Misfit, among: jax.Array) -> jax.Array:
    """Residual over the LEDs whose ``among`` (n,) is 1, each with the scale that fits best."""
    return jnp.sum(among * sums.best_error) / jnp.sum(among * sums.best_energy)
