"""Image quality against a target of the same field: PSNR, SSIM, Pearson's r, absolute error.

``init / accumulate / merge / compute`` over float32 NHWC images in [-1, 1]; a system wraps them in
its `Evaluator`. The accumulator is eleven sums of `medgen_jax.ops.compensated`, float32 ``(11, 2)``.

Conventions:

* A pixel value has a range of 2, and black is -1. PSNR and SSIM equal those of the same images on
  [0, 1] or 0..255 with ``data_range`` 1 or 255. (SSIM's luminance term compares brightness above
  black, so it must not be taken of values in [-1, 1] as they are.) ``mae`` is in units of [-1, 1].
* ``psnr`` is pooled (one mean squared error over all values of all images), ``psnr_mean`` averages
  the PSNR of single images. Both stop at `PSNR_CAP` dB, which identical images get: infinity would
  neither average nor go into JSON.
* ``ssim`` is the mean over images of `medgen_jax.metrics.ssim.structural_similarity`.
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
from medgen_jax.metrics.pair_sums import by_name, check_shapes
from medgen_jax.metrics.ssim import PEAK, WINDOW, structural_similarity
from medgen_jax.ops import compensated
from medgen_jax.ops.compensated import multiple, pair, pixel_sum, total
from medgen_jax.ops.scale import to_unit

PSNR_CAP = 100.0  # dB
FLAT_VARIANCE = 1e-9  # squared units of [-1, 1]: a standard deviation of one 16-bit step

_SUMS = ("images", "values", "squared", "absolute", "psnr", "ssim", "x", "y", "xx", "yy", "xy")


def init() -> jax.Array:
    """An empty accumulator, float32 ``(11, 2)``."""
    return compensated.zeros(len(_SUMS))


def accumulate(acc: jax.Array, predicted: Image, target: Image, mask: Mask) -> jax.Array:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      predicted: (b, h, w, c), floats in [-1, 1], or uint8 or uint16 over their full range.
      target: same shape and range.
      mask: (b,), 1 or True for real records and 0 for padding.

    Raises:
      UserError: when the shapes differ, the images are smaller than the SSIM window, or of another type.
    """
    _check(predicted.shape, target.shape)
    x, y = to_unit(predicted), to_unit(target)
    values = x.shape[1] * x.shape[2] * x.shape[3]
    squared = pixel_sum(jnp.square(x - y))
    sums = {
        "images": pair(jnp.ones(x.shape[0])),
        "values": total(multiple(values, jnp.ones(x.shape[0]))),
        "squared": squared,
        "absolute": pixel_sum(jnp.abs(x - y)),
        "psnr": pair(psnr_of(squared[:, 0] / values)),
        "ssim": pair(structural_similarity(x, y)),
        **_moments(x, y, values),
    }
    return compensated.add_records(acc, jnp.stack([sums[name] for name in _SUMS]), mask)


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    return compensated.add(a, b)


def compute(acc: jax.Array) -> dict[str, float]:
    """``psnr`` and ``psnr_mean`` (dB), ``ssim``, ``pearson`` and ``mae`` of all images added.

    Raises:
      UserError: when no image was added.
    """
    sums = by_name("paired", acc, _SUMS)
    n = sums["values"]
    var_x = sums["xx"] / n - (sums["x"] / n) ** 2
    var_y = sums["yy"] / n - (sums["y"] / n) ** 2
    covariance = sums["xy"] / n - sums["x"] / n * (sums["y"] / n)
    flat = min(var_x, var_y) < FLAT_VARIANCE
    pearson = 0.0 if flat else np.clip(covariance / np.sqrt(var_x * var_y), -1.0, 1.0)
    return {
        "psnr": float(psnr_of(sums["squared"] / n, np)),
        "psnr_mean": sums["psnr"] / sums["images"],
        "ssim": sums["ssim"] / sums["images"],
        "pearson": float(pearson),
        "mae": sums["absolute"] / n,
    }


def psnr_of(mse, xp=jnp):
    """Peak signal-to-noise ratio in dB of mean squared errors in units of [-1, 1], at most `PSNR_CAP`.

    Args:
      mse: any shape.
      xp: ``jax.numpy``, or ``numpy`` on the host.
    """
    floor = PEAK**2 * 10 ** (-PSNR_CAP / 10)
    return 10 * xp.log10(PEAK**2 / xp.maximum(mse, floor))


def _check(predicted: tuple[int, ...], target: tuple[int, ...]) -> None:
    check_shapes("paired", predicted, target)
    if min(target[1:3]) < WINDOW:
        size = f"{target[1]}x{target[2]}"
        raise UserError(
            f"paired metrics: images of {size} pixels are smaller than the {WINDOW}x{WINDOW} SSIM window; "
            "use larger images (data.crop_size)"
        )


def _moments(x: Image, y: Image, values: int) -> dict[str, jax.Array]:
    """Raw moments of each image as pairs (b, 2), summed around each image's own mean.

    A plain float32 sum of squares loses the variance of a bright, flat image. The means are rounded
    to 1/1024, so that their products are exact and the shift back costs no precision.
    """

    def centred(image):
        centre = jnp.round(jnp.mean(image, axis=(1, 2, 3)) * 1024) / 1024
        deviation = image - centre[:, None, None, None]
        return centre, deviation, pixel_sum(deviation)

    def first(centre, deviations):
        return total(jnp.concatenate([deviations, multiple(values, centre)], axis=1))

    def second(cx, dx, sx, cy, dy, sy):
        parts = [pixel_sum(dx * dy), cx[:, None] * sy, cy[:, None] * sx, multiple(values, cx * cy)]
        return total(jnp.concatenate(parts, axis=1))

    a, b = centred(x), centred(y)
    return {
        "x": first(a[0], a[2]),
        "y": first(b[0], b[2]),
        "xx": second(*a, *a),
        "yy": second(*b, *b),
        "xy": second(*a, *b),
    }
