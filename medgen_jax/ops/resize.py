"""Separable resizing by the sampling rules of the libraries that published numbers depend on.

Output row i is a fixed weighted sum of input rows, so resizing is ``rows @ image @ columns.T`` with
two small matrices that depend on the sizes alone:

* ``tf1-bilinear``: ``tf.image.resize_bilinear`` of TensorFlow 1. Output pixel i samples position
  ``i * in / out``, the images aligned at their first pixels' centres and not at their edges; two taps,
  so shrinking aliases.
* ``torch-bilinear``: ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.
  Position ``(i + 0.5) * in / out - 0.5``, edges aligned; two taps, so shrinking aliases.
* ``pil-bicubic``: Pillow's ``resize(size, BICUBIC)`` of a mode F image. Keys' cubic with a = -1/2
  (IEEE Trans. ASSP 29(6), 1981), widened by in / out when shrinking, weights normalised to sum 1.
  Its negative lobes overshoot the input's range.

All three leave an image of the wanted size as it is. Doubling by nearest neighbours, `nearest2x`, has no such choice.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from medgen_jax.core.errors import UserError


def _two_taps(positions: np.ndarray, size_in: int) -> np.ndarray:
    """Linear interpolation at ``positions`` (out,), 0 or more; behind the centre of the last pixel, that pixel."""
    lower = np.minimum(np.floor(positions).astype(int), size_in - 1)
    upper = np.minimum(lower + 1, size_in - 1)
    fraction = (positions - lower).astype(np.float64)
    rows = np.arange(len(positions))
    matrix = np.zeros((len(positions), size_in))
    np.add.at(matrix, (rows, lower), 1 - fraction)
    np.add.at(matrix, (rows, upper), fraction)
    return matrix


def _positions(size_in: int, size_out: int, offset: float) -> np.ndarray:
    """``(i + offset) * in / out - offset`` with the rounding of the references: step and result are float32.

    A position of 200 is then off by up to 1e-5 pixels, much more than the sums that follow.
    """
    step = np.float64(np.float32(size_in / size_out))
    return (step * (np.arange(size_out) + offset) - offset).astype(np.float32)


def _tf1_bilinear(size_in: int, size_out: int) -> np.ndarray:
    return _two_taps(_positions(size_in, size_out, 0.0), size_in)


def _torch_bilinear(size_in: int, size_out: int) -> np.ndarray:
    return _two_taps(np.maximum(_positions(size_in, size_out, 0.5), 0), size_in)


def _keys_cubic(t: np.ndarray, a: float = -0.5) -> np.ndarray:
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t**2 + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def _pil_bicubic(size_in: int, size_out: int) -> np.ndarray:
    step = size_in / size_out
    centres = (np.arange(size_out) + 0.5) * step
    distances = np.arange(size_in) + 0.5 - centres[:, None]
    matrix = _keys_cubic(distances / max(step, 1.0))
    return matrix / matrix.sum(axis=1, keepdims=True)


METHODS: dict[str, Callable[[int, int], np.ndarray]] = {
    "tf1-bilinear": _tf1_bilinear,
    "torch-bilinear": _torch_bilinear,
    "pil-bicubic": _pil_bicubic,
}


def weights(size_in: int, size_out: int, method: str) -> np.ndarray:
    """The matrix (size_out, size_in), float32, that resizes one axis; every row sums to 1.

    Raises:
      UserError: unknown method, or a size below 1.
    """
    if method not in METHODS:
        raise UserError(f"resize method {method!r}: expected one of {', '.join(METHODS)}")
    if min(size_in, size_out) < 1:
        raise UserError(f"resize from {size_in} to {size_out} pixels: both must be at least 1")
    return METHODS[method](size_in, size_out).astype(np.float32)


def resize(images: jax.Array, size: tuple[int, int], method: str) -> jax.Array:
    """Resize a batch.

    Args:
      images: (b, h, w, c), any real dtype and value range.
      size: height and width of the result, pixels.
      method: one of `METHODS`.

    Returns:
      (b, *size, c) float32 in the units of ``images``. A NaN spreads over its row and column.

    Raises:
      UserError: unknown method, or a size below 1.
    """
    images = jnp.asarray(images).astype(jnp.float32)
    matrices = [weights(have, want, method) for have, want in zip(images.shape[1:3], size, strict=True)]
    for axis, matrix in enumerate(matrices, start=1):
        if images.shape[axis] != len(matrix):
            # TF32 and bfloat16 products would keep 3 digits of the 7.
            product = jnp.tensordot(matrix, images, axes=(1, axis), precision=lax.Precision.HIGHEST)
            images = jnp.moveaxis(product, 0, axis)
    return images


def nearest2x(images: jax.Array) -> jax.Array:
    """Every pixel four times, (b, h, w, c) -> (b, 2 h, 2 w, c)."""
    return jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)
