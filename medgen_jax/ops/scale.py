"""Between stored integers and the unit range [-1, 1] in which every network works."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError

_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def _white(dtype: Any) -> int:
    try:
        return _WHITE[np.dtype(dtype)]
    except KeyError:
        raise UserError(f"images of dtype {np.dtype(dtype)}: expected uint8, uint16 or floating point") from None


def to_unit(x: jax.Array) -> jax.Array:
    """Raw samples as float32 in [-1, 1]: 0 becomes -1 and the largest value of the dtype becomes 1.

    Args:
      x: any shape; uint8 or uint16. Floating-point input is taken to be in [-1, 1] already.

    Returns:
      float32, the shape of ``x``.

    Raises:
      UserError: any other dtype.
    """
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.float32)
    half = _white(x.dtype) / 2
    return x.astype(jnp.float32) / half - 1


def from_unit(x: jax.Array, dtype: Any = jnp.uint8) -> jax.Array:
    """The inverse of `to_unit`: rounded to the nearest integer, values beyond [-1, 1] clipped.

    Exact for every uint8 and uint16 value that went through `to_unit`.

    Args:
      x: any shape, floating point.
      dtype: uint8 or uint16.

    Raises:
      UserError: any other dtype.
    """
    white = _white(dtype)
    levels = jnp.round((x.astype(jnp.float32) + 1) * (white / 2))
    return jnp.clip(levels, 0, white).astype(dtype)
