"""Sums of float32 numbers that carry about 48 bits, where 64-bit floats are switched off.

A number is a pair, the last axis of an array: ``(..., 2)`` holds the unevaluated sum ``high + low``.
Additions are error-free transformations (Knuth, The Art of Computer Programming, vol. 2, section
4.2.2), the product is that of Dekker, Numer. Math. 18, 1971. An accumulator of n running sums is an
array ``(n, 2)`` that starts as `zeros`, grows by `add_records`, merges by `add` and is read on the
host by `value`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.types import Image, Mask


def zeros(count: int) -> jax.Array:
    """``count`` empty sums, float32 (count, 2)."""
    return jnp.zeros((count, 2), jnp.float32)


def value(pairs: jax.Array) -> np.ndarray:
    """Pairs (..., 2) as float64 numbers (...), on the host."""
    return np.asarray(pairs, np.float64).sum(-1)


def pair(x: jax.Array) -> jax.Array:
    """float32 numbers (...) as pairs (..., 2)."""
    return jnp.stack([x, jnp.zeros_like(x)], -1)


def add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of pairs (..., 2); associative and commutative up to about 2^-48."""
    high, error = _two_sum(a[..., 0], b[..., 0])
    error = error + (a[..., 1] + b[..., 1])
    total = high + error
    return jnp.stack([total, error - (total - high)], -1)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Exact products of float32 numbers (...) as pairs (..., 2); magnitudes from 1e-15 to 1e15."""
    rounded = x * y
    (x_high, x_low), (y_high, y_low) = _halves(x), _halves(y)
    error = ((x_high * y_high - rounded) + x_high * y_low + x_low * y_high) + x_low * y_low
    return jnp.stack([rounded, error], -1)


def total(x: jax.Array) -> jax.Array:
    """Sum over the last axis as a pair, (..., n) -> (..., 2), by error-free halving."""
    size = 1 << (x.shape[-1] - 1).bit_length()
    pairs = pair(jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])]))
    while size > 1:
        size //= 2
        pairs = add(pairs[..., :size, :], pairs[..., size:, :])
    return pairs[..., 0, :]


def pixel_sum(x: Image) -> jax.Array:
    """Sum of each image as a pair, (b, h, w, c) -> (b, 2): rows plainly, then the rows exactly."""
    return total(jnp.sum(x, axis=(2, 3)))


def multiple(count: int, x: jax.Array) -> jax.Array:
    """Numbers (b, bits) whose sum is ``count * x``: one exact product per binary digit of count."""
    powers = [2.0**bit for bit in range(count.bit_length()) if count >> bit & 1]
    return jnp.stack([x * power for power in powers], -1)


def add_records(acc: jax.Array, records: jax.Array, mask: Mask) -> jax.Array:
    """Add one number per record and sum to an accumulator.

    Args:
      acc: (n, 2).
      records: (n, b, 2) pairs, or (n, b) float32 numbers.
      mask: (b,), 1 or True for real records and 0 for padding, whose numbers may be anything.

    Returns:
      (n, 2).
    """
    records = pair(records) if records.ndim == 2 else records
    counted = jnp.where((mask > 0)[None, :, None], records, 0.0)
    return add(acc, total(counted.reshape(len(counted), -1)))


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rounded sum and its exact rounding error."""
    rounded = a + b
    b_part = rounded - a
    return rounded, (a - (rounded - b_part)) + (b - b_part)


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two numbers of 12 bits whose sum is ``x``: their products are exact."""
    shifted = x * 4097.0
    high = shifted - (shifted - x)
    return high, x - high
