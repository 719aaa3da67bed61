"""Structural similarity of image pairs, at one scale and at several.

Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Process. 13(4), 2004 (SSIM); Wang, Simoncelli
and Bovik, Asilomar 2003 (MS-SSIM). Gaussian window of 11x11 and sigma 1.5, K1 = .01, K2 = .03,
population covariance, per channel, at the positions where the whole window lies inside the image.

Images are (b, h, w, c) in [-1, 1], black -1: a value has a range of 2, and brightness in the luminance
term is measured from black. The numbers are those of the same images on [0, 1] or 0..255 with
``data_range`` 1 or 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image
from medgen_jax.ops.filters import correlate, gaussian_taps

PEAK = 2.0  # range of a pixel value
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, finest first


def structural_similarity(x: Image, y: Image) -> jax.Array:
    """Mean SSIM of each image pair, (b,): equation 13 of the paper of 2004, window as in section III-C.

    Equals scikit-image with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``.
    torchmetrics also averages over windows that reach into a mirrored border: that number is this
    one of the images mirrored by 5 pixels.
    """
    similarity, _ = similarity_maps(x, y)
    return jnp.mean(similarity, axis=(1, 2, 3))


def multiscale_structural_similarity(x: Image, y: Image, *, scales: int = len(EXPONENTS)) -> jax.Array:
    """MS-SSIM of each image pair, (b,) in [0, 1]: equation 7 of the paper of 2003.

    The mean contrast-structure term of every scale but the coarsest, and the mean SSIM of the
    coarsest, each over all channels, raised to `EXPONENTS` and multiplied. A mean below zero
    (an image against its negative) counts as 0, for it has no real power. Each scale halves the one
    before by means of 2x2 pixels; the last row or column of an odd size is left out.

    Args:
      x: (b, h, w, c) in [-1, 1].
      y: same shape and range.
      scales: 1 to 5. With fewer than 5 the first exponents are used, scaled to the sum of all five;
        such numbers compare with each other only.

    Raises:
      UserError: the images are too small for so many scales; 5 need 176 pixels on each side.
    """
    check_scales(x.shape, scales)
    *finer, coarsest = similarity_pyramid(x, y, scales)
    maps = [contrast for _, contrast in finer] + [coarsest[0]]
    return combine_scales([jnp.mean(term, axis=(1, 2, 3)) for term in maps])


def similarity_pyramid(x: Image, y: Image, scales: int) -> list[tuple[jax.Array, jax.Array]]:
    """`similarity_maps` of the images and of their successive halves, finest first."""
    maps = [similarity_maps(x, y)]
    for _ in range(scales - 1):
        x, y = halve(x), halve(y)
        maps.append(similarity_maps(x, y))
    return maps


def similarity_maps(x: Image, y: Image) -> tuple[jax.Array, jax.Array]:
    """SSIM and its contrast-structure factor, each (b, h - 10, w - 10, c), at every whole window."""
    taps = gaussian_taps(WINDOW, SIGMA)
    maps = jnp.stack([x, y, x * x + y * y, x * y])  # the two variances only ever appear as a sum
    mean_x, mean_y, power, product = correlate(correlate(maps, taps, 2), taps, 3)
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    contrast = (2 * (product - mean_x * mean_y) + c2) / (power - mean_x**2 - mean_y**2 + c2)
    # Brightness is measured from black, spread from wherever it is numerically smallest.
    mean_x, mean_y = mean_x + 1.0, mean_y + 1.0
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * contrast, contrast


def halve(x: Image) -> Image:
    """Means of 2x2 pixels, (b, h, w, c) -> (b, h // 2, w // 2, c)."""
    b, h, w, c = x.shape
    return jnp.mean(x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def combine_scales(terms: Sequence[jax.Array]) -> jax.Array:
    """Weighted product of one term (b,) per scale, finest first; terms below zero count as 0."""
    used = EXPONENTS[: len(terms)]
    exponents = [exponent * sum(EXPONENTS) / sum(used) for exponent in used]
    powers = [jnp.maximum(term, 0.0) ** exponent for term, exponent in zip(terms, exponents, strict=True)]
    return jnp.prod(jnp.stack(powers), axis=0)


def check_scales(shape: tuple[int, ...], scales: int) -> None:
    """Refuse images (b, h, w, c) whose coarsest scale does not hold one window."""
    if not 1 <= scales <= len(EXPONENTS):
        raise UserError(f"MS-SSIM: {scales} scales; it has 1 to {len(EXPONENTS)}")
    height, width = shape[1:3]
    side = min(height, width)
    if side >> (scales - 1) < WINDOW:
        fitting = sum(side >> scale >= WINDOW for scale in range(len(EXPONENTS)))
        remedy = f"at most {fitting} fit (scales={fitting})" if fitting else "no scale fits"
        raise UserError(
            f"MS-SSIM: images of {height}x{width} pixels are too small for {scales} scales, which need "
            f"{WINDOW << (scales - 1)} pixels on each side; {remedy}"
        )
