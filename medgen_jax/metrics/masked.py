"""Image quality inside a region, such as body, lung or tissue: PSNR, SSIM, MS-SSIM, absolute error.

A background that both images share lifts every number; inside the region it does not count
(arXiv 2408.06075). ``init / accumulate / merge / compute`` over NHWC images in [-1, 1], a region per
image beside them; the accumulator is sums of `medgen_jax.ops.compensated`.

Conventions:

* ``mae`` and ``psnr`` are pooled over all values of all pixels inside the regions, so a large region
  weighs more; ``psnr_mean`` averages the PSNR of each image's region. Scale and cap are those of
  `medgen_jax.metrics.paired`.
* ``ssim`` of an image is the mean of its SSIM map (`medgen_jax.metrics.ssim`) over the windows that lie
  whole inside the image and whose centre pixel lies inside the region. Such windows see up to 5
  pixels beyond the region's edge, on both images alike.
* ``ms_ssim`` takes the same mean at every scale. The region is halved as the images are, so a centre
  of a coarser scale weighs as much as the share of its pixels that lie inside.
* An image counts for a number if its region gives that number a pixel or a window centre; an empty
  region counts for none, as does one that hugs the border for the two similarities. ``regions`` and
  ``*_images`` say how many counted; a number that no image defines is absent.
* A non-finite value inside a region (or, for the two similarities, inside a window) makes the numbers
  NaN. Outside it never counts, nor do records whose mask is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image, Mask
from medgen_jax.metrics.pair_sums import by_name, check_shapes
from medgen_jax.metrics.paired import psnr_of
from medgen_jax.metrics.ssim import EXPONENTS, WINDOW, check_scales, combine_scales, halve, similarity_pyramid
from medgen_jax.ops import compensated
from medgen_jax.ops.compensated import pixel_sum
from medgen_jax.ops.scale import to_unit

_COUNTS = ("images", "regions", "ssim_images", "ms_ssim_images")
_SUMS = (*_COUNTS, "values", "squared", "absolute", "psnr", "ssim", "ms_ssim")

Defined = tuple[jax.Array, jax.Array]  # (b,) bool: which images a number is defined for; (b,) the numbers


def init() -> jax.Array:
    """An empty accumulator, float32 (10, 2)."""
    return compensated.zeros(len(_SUMS))


def accumulate(
    acc: jax.Array,
    predicted: Image,
    target: Image,
    region: jax.Array,
    mask: Mask,
    *,
    scales: int = len(EXPONENTS),
) -> jax.Array:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      predicted: (b, h, w, c), floats in [-1, 1], or uint8 or uint16 over their full range.
      target: same shape and range.
      region: (b, h, w), True or above 0 inside. Make it from the target, never from the prediction.
      mask: (b,), 1 or True for real records and 0 for padding.
      scales: of MS-SSIM, 1 to 5.

    Raises:
      UserError: when shapes differ, or the images are too small for ``scales`` (5 need 176 pixels).
    """
    _check(predicted.shape, target.shape, region.shape)
    check_scales(target.shape, scales)
    x, y, inside = to_unit(predicted), to_unit(target), (region > 0)[..., None]
    difference = jnp.where(inside, x - y, 0.0)
    values = pixel_sum(jnp.broadcast_to(inside, x.shape).astype(jnp.float32))
    squared = pixel_sum(jnp.square(difference))
    some = values[:, 0] > 0
    psnr = psnr_of(squared[:, 0] / jnp.where(some, values[:, 0], 1.0))
    ssim, ms_ssim = masked_similarities(x, y, inside.astype(jnp.float32), scales)
    records = {
        "images": compensated.pair(jnp.ones(x.shape[0])),
        "values": values,
        "squared": squared,
        "absolute": pixel_sum(jnp.abs(difference)),
        **_counted("regions", "psnr", (some, psnr)),
        **_counted("ssim_images", "ssim", ssim),
        **_counted("ms_ssim_images", "ms_ssim", ms_ssim),
    }
    return compensated.add_records(acc, jnp.stack([records[name] for name in _SUMS]), mask)


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    return compensated.add(a, b)


def compute(acc: jax.Array) -> dict[str, float]:
    """``psnr`` and ``psnr_mean`` (dB), ``mae``, ``ssim``, ``ms_ssim`` inside the regions, and what they rest on.

    Beside them the numbers of images: ``images``, and of these ``regions`` (not empty),
    ``ssim_images`` and ``ms_ssim_images``.

    Raises:
      UserError: when no image was added, or every region was empty.
    """
    sums = by_name("masked", acc, _SUMS)
    if sums["regions"] == 0:
        raise UserError(f"masked metrics: the regions of all {sums['images']:.0f} images are empty; check the masks")
    means = {"ssim": "ssim_images", "ms_ssim": "ms_ssim_images"}
    return {
        "psnr": float(psnr_of(sums["squared"] / sums["values"], np)),
        "psnr_mean": sums["psnr"] / sums["regions"],
        "mae": sums["absolute"] / sums["values"],
        **{name: sums[name] / sums[count] for name, count in means.items() if sums[count]},
        **{name: sums[name] for name in _COUNTS},
    }


def masked_similarities(x: Image, y: Image, region: jax.Array, scales: int) -> tuple[Defined, Defined]:
    """SSIM and MS-SSIM of each image pair inside its region.

    Args:
      x: (b, h, w, c) in [-1, 1].
      y: same shape and range.
      region: (b, h, w, 1) float32, the share of a pixel that lies inside.
      scales: of MS-SSIM.
    """
    similarities, contrasts = [], []
    for similarity, contrast in similarity_pyramid(x, y, scales):
        margin = WINDOW // 2
        centres = region[:, margin:-margin, margin:-margin]
        similarities.append(_region_mean(similarity, centres))
        contrasts.append(_region_mean(contrast, centres))
        region = halve(region)
    defined, terms = zip(*contrasts[:-1], similarities[-1], strict=True)
    return similarities[0], (jnp.all(jnp.stack(defined), axis=0), combine_scales(terms))


def _region_mean(values: jax.Array, weights: jax.Array) -> Defined:
    """Mean of (b, h, w, c) weighted by (b, h, w, 1); 0 where no weight lies."""
    total = jnp.sum(weights, axis=(1, 2, 3)) * values.shape[-1]
    weighted = jnp.sum(jnp.where(weights > 0, values * weights, 0.0), axis=(1, 2, 3))
    return total > 0, weighted / jnp.where(total > 0, total, 1.0)


def _counted(count: str, name: str, defined: Defined) -> dict[str, jax.Array]:
    """Records of a number and of the images that have one."""
    some, number = defined
    return {
        count: compensated.pair(some.astype(jnp.float32)),
        name: compensated.pair(jnp.where(some, number, 0.0)),
    }


def _check(predicted: tuple[int, ...], target: tuple[int, ...], region: tuple[int, ...]) -> None:
    check_shapes("masked", predicted, target)
    if region != target[:3]:
        raise UserError(f"masked metrics: regions are {region}, the images {target}; one (b, h, w) mask goes with them")
