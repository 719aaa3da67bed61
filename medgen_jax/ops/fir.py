"""Resampling of images through a separable FIR filter, and convolutions that resample on the way.

The path of Karras et al. (2018, 2020): zeros between the pixels, a low-pass filter, every n-th pixel. As sums of
shifted slices, phase by phase, so that no zero is ever multiplied and no grouped convolution appears: both are an
order of magnitude slower on XLA:CPU, and nothing here needs a kernel of its own on any backend.

Images are NHWC. Filters are a few taps that act along both axes, ``TAPS`` unless said otherwise. Sums are float32,
results have the dtype of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.ops.conv import conv2d, conv_transpose2x

#: Binomial low-pass filter of StyleGAN2 before it is made to sum to 1.
TAPS = (1.0, 3.0, 3.0, 1.0)


def fir(
    x: jax.Array,
    taps: Sequence[float] = TAPS,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> jax.Array:
    """Upsample by zeros, pad, convolve and downsample both axes of an image.

    Every pixel is followed by ``up - 1`` zeros; ``padding`` zeros go in front and behind (negative: pixels are cut
    off); the taps, made to sum to 1, are convolved with what there is (the first tap meets the latest sample);
    every ``down``-th sum stays, the first one included.

    Args:
      x: (n, h, w, c).
      taps: K weights of any sum but 0.
      up: samples made of each pixel.
      down: samples per pixel of the result.
      padding: zeros in front and behind, in samples between upsampling and filter, for both axes alike.
      gain: factor of the result; ``up**2`` keeps the brightness.

    Returns:
      (n, h', w', c) with ``h' = (up h + sum(padding) - K) // down + 1``.

    Raises:
      UserError: taps that sum to 0, a factor below 1, or an image smaller than the filter.
    """
    if not taps or not math.isfinite(sum(taps)) or sum(taps) == 0:
        raise UserError(f"filter of taps {tuple(taps)}: expected one or more with a finite sum other than 0")
    if up < 1 or down < 1:
        raise UserError(f"resampling up by {up} and down by {down}: both must be at least 1")
    weights = [tap * math.sqrt(gain) / sum(taps) for tap in taps]
    y = x.astype(jnp.float32)
    for axis in (1, 2):
        y = _along(y, axis, weights, up, down, padding)
    return y.astype(x.dtype)


def _along(x: jax.Array, axis: int, taps: list[float], up: int, down: int, padding: tuple[int, int]) -> jax.Array:
    """`fir` along one axis.

    Result m is the sum over k of ``reversed(taps)[k]`` times sample ``m down + k - padding[0]``, and samples other
    than the multiples of ``up`` are 0. With g = gcd(up, down), results ``m = (up / g) j + r`` of one phase r meet the
    same taps: those for which ``r down + k - padding[0]`` is ``up`` times some ``shift``, and then the pixel is
    ``(down / g) j + shift``.
    """
    size = x.shape[axis]
    count = (up * size + sum(padding) - len(taps)) // down + 1
    if count < 1:
        raise UserError(f"image of {size} pixels: too small for a filter of {len(taps)} taps after padding {padding}")
    common = math.gcd(up, down)
    phases, step = up // common, down // common
    per_phase = -(-count // phases)

    def terms(r: int) -> list[tuple[int, float]]:
        starts = [(r * down + k - padding[0], tap) for k, tap in enumerate(reversed(taps))]
        return [(start // up, tap) for start, tap in starts if start % up == 0]

    shifts = [terms(r) for r in range(phases)]
    reached = [shift for phase in shifts for shift, _ in phase] or [0]
    before = max(0, -min(reached))
    behind = max(0, max(reached) + step * (per_phase - 1) + 1 - size)
    padded = jnp.pad(x, [(before, behind) if i == axis else (0, 0) for i in range(x.ndim)])

    def phase(met: list[tuple[int, float]]) -> jax.Array:
        made = jnp.zeros((), x.dtype)
        for shift, tap in met:
            start = shift + before
            made = made + tap * lax.slice_in_dim(padded, start, start + step * (per_phase - 1) + 1, step, axis)
        shape = [per_phase if i == axis else n for i, n in enumerate(x.shape)]
        return jnp.broadcast_to(made, shape)

    if phases == 1:
        return phase(shifts[0])
    shape = [phases * per_phase if i == axis else n for i, n in enumerate(x.shape)]
    merged = jnp.stack([phase(met) for met in shifts], axis + 1).reshape(shape)
    return lax.slice_in_dim(merged, 0, count, axis=axis)


def upsample2x(x: jax.Array, taps: Sequence[float] = TAPS) -> jax.Array:
    """Double the size through the filter and keep the brightness, (n, h, w, c) -> (n, 2 h, 2 w, c)."""
    return fir(x, taps, up=2, padding=((len(taps) + 1) // 2, (len(taps) - 2) // 2), gain=4.0)


def downsample2x(x: jax.Array, taps: Sequence[float] = TAPS) -> jax.Array:
    """Halve the size through the filter, (n, h, w, c) -> (n, h / 2, w / 2, c); h and w even."""
    return fir(x, taps, down=2, padding=((len(taps) - 1) // 2, (len(taps) - 2) // 2))


def up_conv(x: jax.Array, kernel: jax.Array, taps: Sequence[float] = TAPS) -> jax.Array:
    """Transposed convolution of stride 2, then the filter with gain 4.

    Input pixel ``i`` adds ``x[i] * kernel[a]`` to sample ``2 i + a`` along both axes: PyTorch's ``conv_transpose2d``
    of stride 2 without padding, ``kernel = weight.transpose(2, 3, 0, 1)``.

    Args:
      x: (n, h, w, in).
      kernel: (3, 3, in, out), of the dtype of ``x``.
      taps: filter, 2 taps or more.

    Returns:
      (n, 2 h, 2 w, out).
    """
    before, behind = (len(taps) + 1) // 2 - 1, (len(taps) - 2) // 2
    # A row of zeros in front: `conv_transpose2x` starts at sample 1 of the pixels it is given, that is at -1 here.
    # The zeros behind hold the last sample, 2 h, and one 0.
    samples = conv_transpose2x(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel)
    return fir(samples[:, :-1, :-1], taps, padding=(before - 1, behind - 1), gain=4.0)


def down_conv(x: jax.Array, kernel: jax.Array, taps: Sequence[float] = TAPS) -> jax.Array:
    """The filter, then a cross-correlation of stride 2.

    Args:
      x: (n, h, w, in), h and w even.
      kernel: (k, k, in, out), k odd, of the dtype of ``x``.
      taps: filter, 2 taps or more.

    Returns:
      (n, h / 2, w / 2, out).
    """
    if kernel.shape[0] == 1:
        return conv2d(downsample2x(x, taps), kernel)
    margin = kernel.shape[0] // 2
    padding = (margin + (len(taps) - 1) // 2, margin + (len(taps) - 2) // 2)
    return conv2d(fir(x, taps, padding=padding), kernel, stride=2)
