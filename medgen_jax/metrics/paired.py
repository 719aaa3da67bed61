"""Image quality against a target of the same field: PSNR, SSIM, Pearson's r, absolute error.

``init / accumulate / merge / compute`` over float32 NHWC images in [-1, 1]; a system wraps them in
its `Evaluator`. The accumulator is one float32 array ``(11, 2)``: eleven running sums, each held as
an unevaluated pair ``high + low`` (error-free addition: Knuth, The Art of Computer Programming,
vol. 2, section 4.2.2), so that it carries about 48 bits where 64-bit floats are switched off.

Conventions:

* A pixel value has a range of 2, and black is -1. PSNR and SSIM equal those of the same images on
  [0, 1] or 0..255 with ``data_range`` 1 or 255. (SSIM's luminance term compares brightness above
  black, so it must not be taken of values in [-1, 1] as they are.) ``mae`` is in units of [-1, 1].
* ``psnr`` is pooled (one mean squared error over all values of all images), ``psnr_mean`` averages
  the PSNR of single images. Both stop at `PSNR_CAP` dB, which identical images get: infinity would
  neither average nor go into JSON.
* ``ssim`` follows Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Process. 13(4), 2004:
  Gaussian window of 11x11 and sigma 1.5, K1 = .01, K2 = .03, population covariance, per channel,
  averaged over the positions where the whole window lies inside the image.
* ``pearson`` is the correlation over all values of all images pooled; 0 when either side's variance
  is below `FLAT_VARIANCE` (a constant image predicts nothing).
* A non-finite prediction makes its numbers NaN; records whose mask is 0 never count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image, Mask

PEAK = 2.0  # range of a pixel value
PSNR_CAP = 100.0  # dB
FLAT_VARIANCE = 1e-9  # squared units of [-1, 1]: a standard deviation of one 16-bit step
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03

_SUMS = ("images", "values", "squared", "absolute", "psnr", "ssim", "x", "y", "xx", "yy", "xy")


def init() -> jax.Array:
    """An empty accumulator, float32 ``(11, 2)``."""
    return jnp.zeros((len(_SUMS), 2), jnp.float32)


def accumulate(acc: jax.Array, predicted: Image, target: Image, mask: Mask) -> jax.Array:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      predicted: (b, h, w, c) in [-1, 1].
      target: same shape and range.
      mask: (b,), 1 or True for real records and 0 for padding.

    Raises:
      UserError: when the shapes differ or the images are smaller than the SSIM window.
    """
    _check(predicted.shape, target.shape)
    x, y = predicted.astype(jnp.float32), target.astype(jnp.float32)
    values = x.shape[1] * x.shape[2] * x.shape[3]
    squared = _pixel_sum(jnp.square(x - y))
    sums = {
        "images": _pair(jnp.ones(x.shape[0])),
        "values": _total(_multiple(values, jnp.ones(x.shape[0]))),
        "squared": squared,
        "absolute": _pixel_sum(jnp.abs(x - y)),
        "psnr": _pair(_psnr(squared[:, 0] / values, jnp)),
        "ssim": _pair(structural_similarity(x, y)),
        **_moments(x, y, values),
    }
    per_image = jnp.stack([sums[name] for name in _SUMS])
    counted = jnp.where((mask > 0)[None, :, None], per_image, 0.0)
    return merge(acc, _total(counted.reshape(len(_SUMS), -1)))


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    high, error = _two_sum(a[..., 0], b[..., 0])
    error = error + (a[..., 1] + b[..., 1])
    total = high + error
    return jnp.stack([total, error - (total - high)], -1)


def compute(acc: jax.Array) -> dict[str, float]:
    """``psnr`` and ``psnr_mean`` (dB), ``ssim``, ``pearson`` and ``mae`` of all images added.

    Raises:
      UserError: when no image was added.
    """
    total = dict(zip(_SUMS, np.asarray(acc, np.float64).sum(-1), strict=True))
    if total["images"] == 0:
        raise UserError("paired metrics: no image pair was added; the split that is evaluated is empty")
    n = total["values"]
    var_x = total["xx"] / n - (total["x"] / n) ** 2
    var_y = total["yy"] / n - (total["y"] / n) ** 2
    covariance = total["xy"] / n - total["x"] / n * (total["y"] / n)
    flat = min(var_x, var_y) < FLAT_VARIANCE
    pearson = 0.0 if flat else np.clip(covariance / np.sqrt(var_x * var_y), -1.0, 1.0)
    return {
        "psnr": float(_psnr(total["squared"] / n, np)),
        "psnr_mean": float(total["psnr"] / total["images"]),
        "ssim": float(total["ssim"] / total["images"]),
        "pearson": float(pearson),
        "mae": float(total["absolute"] / n),
    }


def structural_similarity(x: Image, y: Image) -> jax.Array:
    """Mean SSIM of each image pair, (b,): the paper's equation 13, window as in section III-C.

    The window is separable and written as shifted adds: the grouped convolution it would otherwise
    be is several times slower on CPUs.
    """
    window = _gaussian(WINDOW, SIGMA)
    maps = jnp.stack([x, y, x * x + y * y, x * y])  # the two variances only ever appear as a sum
    mean_x, mean_y, power, product = _blur(_blur(maps, window, 2), window, 3)
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    contrast = (2 * (product - mean_x * mean_y) + c2) / (power - mean_x**2 - mean_y**2 + c2)
    # Brightness is measured from black, spread from wherever it is numerically smallest.
    mean_x, mean_y = mean_x + 1.0, mean_y + 1.0
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return jnp.mean(luminance * contrast, axis=(1, 2, 3))


def _check(predicted: tuple[int, ...], target: tuple[int, ...]) -> None:
    if predicted != target or len(target) != 4:
        raise UserError(
            f"paired metrics: predicted images are {predicted} and targets {target}; both must be one (b, h, w, c)"
        )
    if min(target[1:3]) < WINDOW:
        size = f"{target[1]}x{target[2]}"
        raise UserError(
            f"paired metrics: images of {size} pixels are smaller than the {WINDOW}x{WINDOW} SSIM window; "
            "use larger images (data.crop_size)"
        )


def _psnr(mse, xp):
    floor = PEAK**2 * 10 ** (-PSNR_CAP / 10)
    return 10 * xp.log10(PEAK**2 / xp.maximum(mse, floor))


def _gaussian(size: int, sigma: float) -> list[float]:
    taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return [float(tap) for tap in taps / taps.sum()]


def _blur(x: jax.Array, taps: list[float], axis: int) -> jax.Array:
    size = x.shape[axis] - len(taps) + 1
    return sum(tap * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i, tap in enumerate(taps))


def _moments(x: Image, y: Image, values: int) -> dict[str, jax.Array]:
    """Raw moments of each image as pairs (b, 2), summed around each image's own mean.

    A plain float32 sum of squares loses the variance of a bright, flat image. The means are rounded
    to 1/1024, so that their products are exact and the shift back costs no precision.
    """

    def centred(image):
        centre = jnp.round(jnp.mean(image, axis=(1, 2, 3)) * 1024) / 1024
        deviation = image - centre[:, None, None, None]
        return centre, deviation, _pixel_sum(deviation)

    def first(centre, deviations):
        return _total(jnp.concatenate([deviations, _multiple(values, centre)], axis=1))

    def second(cx, dx, sx, cy, dy, sy):
        parts = [_pixel_sum(dx * dy), cx[:, None] * sy, cy[:, None] * sx, _multiple(values, cx * cy)]
        return _total(jnp.concatenate(parts, axis=1))

    a, b = centred(x), centred(y)
    return {
        "x": first(a[0], a[2]),
        "y": first(b[0], b[2]),
        "xx": second(*a, *a),
        "yy": second(*b, *b),
        "xy": second(*a, *b),
    }


def _pixel_sum(x: jax.Array) -> jax.Array:
    """Sum of each image as a pair, (b, h, w, c) -> (b, 2): rows plainly, then the rows exactly."""
    return _total(jnp.sum(x, axis=(2, 3)))


def _multiple(count: int, x: jax.Array) -> jax.Array:
    """Numbers (b, bits) whose sum is ``count * x``: one exact product per binary digit of count."""
    powers = [2.0**bit for bit in range(count.bit_length()) if count >> bit & 1]
    return jnp.stack([x * power for power in powers], -1)


def _pair(x: jax.Array) -> jax.Array:
    return jnp.stack([x, jnp.zeros_like(x)], -1)


def _total(x: jax.Array) -> jax.Array:
    """Sum over the last axis as a pair, (..., n) -> (..., 2), by error-free halving."""
    size = 1 << (x.shape[-1] - 1).bit_length()
    pairs = _pair(jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])]))
    while size > 1:
        size //= 2
        pairs = merge(pairs[..., :size, :], pairs[..., size:, :])
    return pairs[..., 0, :]


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rounded sum and its exact rounding error."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)
