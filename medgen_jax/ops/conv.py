"""Two-dimensional convolutions in the forms that XLA runs fast, forward and backward.

Images are NHWC, kernels HWIO ``(k, k, in, out)``. Accumulation is float32 on every backend, also for
bfloat16 operands; the result has the dtype of the operands. No function uses ``lhs_dilation`` in its
forward pass: on XLA:CPU its weight gradient is up to two orders of magnitude slower than the phase form.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.ops import conv_products
from medgen_jax.ops.conv_products import Pads

#: Backends on which derivatives are matrix products, not what autodiff makes of a convolution.
AS_PRODUCTS = frozenset({"cpu"})


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int | Pads = 0) -> jax.Array:
    """Cross-correlation with explicit zero padding, as ``torch.nn.functional.conv2d``.

    Args:
      x: (n, h, w, in).
      kernel: (k, k, in, out), of the dtype of ``x``.
      stride: step in both directions.
      padding: pixels on every side, or ``((top, bottom), (left, right))``.

    Returns:
      (n, h', w', out) with ``h' = (h + top + bottom - k) // stride + 1``.
    """
    pads = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    if jax.default_backend() in AS_PRODUCTS:
        return conv_products.conv2d(x, kernel, stride, pads)
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def reflect_conv2d(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-1 cross-correlation after mirroring ``k // 2`` border pixels (the edge is not repeated).

    Args:
      x: (n, h, w, in), with h and w larger than ``k // 2``.
      kernel: (k, k, in, out), k odd.

    Returns:
      (n, h, w, out).

    Raises:
      UserError: the image is too small to be mirrored.
    """
    height, width, pad = x.shape[1], x.shape[2], kernel.shape[0] // 2
    if min(height, width) <= pad:
        raise UserError(f"image of {height} x {width} pixels: mirroring {pad} border pixels needs at least {pad + 1}")
    mirrored = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    # A convolution whose padding is all zero leaves XLA:CPU's fast path (3x to 16x slower), so the
    # mirrored image is convolved at its own size and the border thrown away: the same sums.
    same = conv2d(mirrored, kernel, padding=pad)
    return same[:, pad : pad + height, pad : pad + width]


def _interleave(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    """Merge two arrays so that ``even`` fills the even and ``odd`` the odd positions of ``axis``."""
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack((even, odd), axis + 1).reshape(shape)


def conv_transpose2x(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution of stride 2 that doubles the size, in its four-phase form.

    Input pixel ``i`` adds ``x[i] * kernel[a]`` to output pixel ``2 i + a - 1`` along both axes. This is
    torch's ``conv_transpose2d`` with ``(k 4, stride 2, padding 1)`` or ``(k 3, stride 2, padding 1,
    output_padding 1)`` and ``kernel = weight.transpose(2, 3, 0, 1)``, not flipped.

    Output pixels of one parity see only every other tap, so each of the four parities is one small
    stride-1 convolution: ``y[2j] = sum_b kernel[1 + 2b] x[j - b]``, ``y[2j + 1] = sum_b kernel[2b] x[j + 1 - b]``.

    Args:
      x: (n, h, w, in).
      kernel: (k, k, in, out), k = 3 or 4.

    Returns:
      (n, 2 h, 2 w, out).
    """
    size = kernel.shape[0]
    if size not in (3, 4) or kernel.shape[1] != size:
        raise ValueError(f"conv_transpose2x takes 3 x 3 or 4 x 4 kernels, not {kernel.shape[0]} x {kernel.shape[1]}")

    def phase(row: int, column: int) -> jax.Array:
        taps = kernel[1 - row :: 2, 1 - column :: 2][::-1, ::-1]
        reach_h, reach_w = taps.shape[0] - 1, taps.shape[1] - 1
        # Even outputs reach back to earlier inputs, odd ones forward to later inputs.
        rows = (0, reach_h) if row else (reach_h, 0)
        columns = (0, reach_w) if column else (reach_w, 0)
        return conv2d(x, taps, padding=(rows, columns))

    upper = _interleave(phase(0, 0), phase(0, 1), axis=2)
    lower = _interleave(phase(1, 0), phase(1, 1), axis=2)
    return _interleave(upper, lower, axis=1)


def nearest_conv2x(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Nearest-neighbour doubling followed by a zero-padded 3 x 3 cross-correlation, in one pass.

    Neighbouring copies share their input pixel, so along each axis the taps ``k0, k1, k2`` act as the
    transposed convolution with taps ``k2, k1 + k2, k0 + k1, k0``: 16 instead of 36 products per input
    pixel and channel pair, and no enlarged image in memory.

    Args:
      x: (n, h, w, in).
      kernel: (3, 3, in, out); its taps are added up in its own dtype before they take that of ``x``.

    Returns:
      (n, 2 h, 2 w, out).
    """
    if kernel.shape[:2] != (3, 3):
        raise ValueError(f"nearest_conv2x takes 3 x 3 kernels, not {kernel.shape[0]} x {kernel.shape[1]}")

    def spread(taps: jax.Array) -> jax.Array:
        first, middle, last = taps
        return jnp.stack((last, middle + last, first + middle, first))

    rows = spread(kernel)
    both = jnp.swapaxes(spread(jnp.swapaxes(rows, 0, 1)), 0, 1)
    return conv_transpose2x(x, both.astype(x.dtype))


def conv_mean2x(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Zero-padded 3 x 3 cross-correlation followed by means of 2 x 2 pixels, in one pass.

    Neighbouring outputs share inputs, so along each axis the taps ``k0, k1, k2`` act as those of a stride-2
    correlation ``k0, k0 + k1, k1 + k2, k2``, halved: 16 instead of 36 products per output pixel and channel pair. It
    is written as a sum over the four parities of input pixels, each a small stride-1 correlation, since R1
    differentiates twice and the derivatives of strided correlations are slow on CPUs.

    Args:
      x: (n, h, w, in), h and w even.
      kernel: (3, 3, in, out); its taps are added up in its own dtype before they take that of ``x``.

    Returns:
      (n, h / 2, w / 2, out).
    """
    if kernel.shape[:2] != (3, 3):
        raise ValueError(f"conv_mean2x takes 3 x 3 kernels, not {kernel.shape[0]} x {kernel.shape[1]}")

    def spread(taps: jax.Array) -> jax.Array:
        first, middle, last = taps
        return jnp.stack((first, first + middle, middle + last, last)) / 2

    rows = spread(kernel)
    both = jnp.swapaxes(spread(jnp.swapaxes(rows, 0, 1)), 0, 1).astype(x.dtype)
    # Output j reads pixels 2j - 1 to 2j + 2: the even ones at j and j + 1, the odd ones at j - 1 and j.
    pads = {0: (0, 1), 1: (1, 0)}
    return sum(
        conv2d(x[:, row::2, column::2], both[1 - row :: 2, 1 - column :: 2], padding=(pads[row], pads[column]))
        for row in (0, 1)
        for column in (0, 1)
    )
