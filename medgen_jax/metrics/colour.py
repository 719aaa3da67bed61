"""Colour and structure of stained tiles against a target: colour difference, stain vectors, grey structure.

``init / accumulate / merge / compute`` over RGB images (b, h, w, 3) in [-1, 1]; the accumulator is sums
of `medgen_jax.ops.compensated`.

Conventions:

* ``delta_e_76`` and ``delta_e_2000`` of a pair are means over the pixels that are tissue in the TARGET
  (`medgen_jax.ops.tissue`), because glass is white in every picture. About 1 is just noticeable.
* ``grey_pearson`` is Pearson's r of the two images in grey over all their pixels: whether structure
  was kept whatever became of the colours. 0 when either image is flat.
* ``haematoxylin_angle`` and ``eosin_angle`` are the angles, in degrees, between the stain vectors of the
  two images (`medgen_jax.ops.stain_vectors`).
* All are averaged over images. A pair counts for a number if its target has tissue, or stain
  vectors, and for the angles if the prediction has them as well; ``stains_lost`` is the share of
  targets with stain vectors whose prediction has none. A number that no pair defines is absent.
* A non-finite prediction makes its numbers NaN; records whose mask is 0 never count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image, Mask
from medgen_jax.metrics.colour_difference import delta_e_76, delta_e_2000
from medgen_jax.metrics.pair_sums import by_name
from medgen_jax.metrics.paired import FLAT_VARIANCE
from medgen_jax.ops import compensated
from medgen_jax.ops.colour import rgb_to_lab
from medgen_jax.ops.scale import to_unit
from medgen_jax.ops.stain_vectors import stain_vectors
from medgen_jax.ops.tissue import tissue_mask

_MEANS = {  # number: what it is averaged over
    "delta_e_76": "tissue",
    "delta_e_2000": "tissue",
    "grey_pearson": "images",
    "haematoxylin_angle": "both_stained",
    "eosin_angle": "both_stained",
}
_SUMS = ("images", "tissue", "stained", "both_stained", *_MEANS)
_LUMA = (0.2125, 0.7154, 0.0721)


def init() -> jax.Array:
    """An empty accumulator, float32 (9, 2)."""
    return compensated.zeros(len(_SUMS))


def accumulate(acc: jax.Array, predicted: Image, target: Image, mask: Mask) -> jax.Array:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      predicted: (b, h, w, 3), floats in [-1, 1], or uint8 or uint16 over their full range.
      target: same shape and range.
      mask: (b,), 1 or True for real records and 0 for padding.

    Raises:
      UserError: when the shapes differ or the images are not RGB.
    """
    if predicted.shape != target.shape or target.ndim != 4 or target.shape[-1] != 3:
        raise UserError(
            f"colour metrics: predicted images are {predicted.shape} and targets {target.shape}; "
            "both must be one (b, h, w, 3)"
        )
    x, y = ((to_unit(image) + 1) / 2 for image in (predicted, target))
    finite = jnp.all(jnp.isfinite(x) & jnp.isfinite(y), axis=(1, 2, 3))
    tissue, labs = tissue_mask(y), (rgb_to_lab(x), rgb_to_lab(y))
    vectors, ok = stain_vectors(jnp.concatenate([x, y]))
    angles = vector_angle(*jnp.split(vectors, 2))
    measured, wanted = jnp.split(ok, 2)
    counts = {
        "images": jnp.ones(len(x), bool),
        "tissue": tissue.ok | ~finite,
        "stained": wanted | ~finite,
        "both_stained": (measured & wanted) | ~finite,
    }
    numbers = {
        "delta_e_76": _mean_where(tissue.mask, delta_e_76(*labs)),
        "delta_e_2000": _mean_where(tissue.mask, delta_e_2000(*labs)),
        "grey_pearson": grey_pearson(x, y),
        "haematoxylin_angle": angles[:, 0],
        "eosin_angle": angles[:, 1],
    }
    numbers = {name: jnp.where(finite, number, jnp.nan) for name, number in numbers.items()}
    numbers = {name: jnp.where(counts[_MEANS[name]], number, 0.0) for name, number in numbers.items()}
    records = counts | numbers
    rows = jnp.stack([records[name].astype(jnp.float32) for name in _SUMS])
    return compensated.add_records(acc, rows, mask)


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    return compensated.add(a, b)


def compute(acc: jax.Array) -> dict[str, float]:
    """The numbers of the module's docstring, and how many images each rests on.

    ``images`` counts all pairs, ``tissue`` and ``stained`` the targets with tissue and with stain vectors,
    ``both_stained`` the pairs where the prediction has stain vectors too.

    Raises:
      UserError: when no image was added.
    """
    sums = by_name("colour", acc, _SUMS)
    lost = {"stains_lost": 1 - sums["both_stained"] / sums["stained"]} if sums["stained"] else {}
    return {
        **{name: sums[name] / sums[count] for name, count in _MEANS.items() if sums[count]},
        **lost,
        **{name: sums[name] for name in _SUMS if name not in _MEANS},
    }


def grey_pearson(x: Image, y: Image) -> jax.Array:
    """Pearson's r of two RGB images in grey (Rec. 709 luma of the stored values), (b,).

    0 when the variance of either is below that of a 16-bit step.
    """
    greys = [sum(weight * image[..., i] for i, weight in enumerate(_LUMA)) for image in (x, y)]
    a, b = (grey - jnp.mean(grey, axis=(1, 2), keepdims=True) for grey in greys)
    covariance, var_a, var_b = (jnp.mean(product, axis=(1, 2)) for product in (a * b, a * a, b * b))
    flat = jnp.minimum(var_a, var_b) < FLAT_VARIANCE / 4  # here white - black is 1, there it is 2
    r = covariance / jnp.sqrt(jnp.where(flat, 1.0, var_a * var_b))
    return jnp.where(flat, 0.0, jnp.clip(r, -1.0, 1.0))


def vector_angle(a: jax.Array, b: jax.Array) -> jax.Array:
    """Angle in degrees, 0 to 180, between vectors (..., 3); exact for small angles, where arccos is not."""
    sine = jnp.linalg.norm(jnp.cross(a, b), axis=-1)
    return jnp.rad2deg(jnp.arctan2(sine, jnp.sum(a * b, axis=-1)))


def _mean_where(mask: jax.Array, values: jax.Array) -> jax.Array:
    """Mean of (b, h, w) under a mask; 0 where it is empty."""
    count = jnp.sum(mask, axis=(1, 2)).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, values, 0.0), axis=(1, 2)) / jnp.maximum(count, 1.0)
