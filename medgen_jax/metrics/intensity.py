"""Normalised median intensity of stained tiles, and its coefficient of variation over a set.

NMI of a tile is the median over the 95th percentile of its tissue's intensity, the mean of R, G and B
(Basavanhally and Madabhushi, SPIE Medical Imaging 2013). Its spread over tiles of several slides says how
uneven the staining is; normalisation should lower it. ``init / accumulate / merge / compute`` over
RGB images (b, h, w, 3) in [-1, 1] of one set; the accumulator is sums of `medgen_jax.ops.compensated`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image, Mask
from medgen_jax.ops import compensated
from medgen_jax.ops.quantiles import masked_quantile
from medgen_jax.ops.scale import to_unit
from medgen_jax.ops.tissue import tissue_mask

_SUMS = ("images", "tissue", "nmi", "squared")


def normalised_median_intensity(images: Image) -> tuple[jax.Array, jax.Array]:
    """NMI of each tile.

    Args:
      images: (b, h, w, 3), floats in [-1, 1], or uint8 or uint16 over their full range.

    Returns:
      ``(nmi, ok)``: (b,) in [0, 1], and (b,) bool, whether the tile has enough tissue (`tissue_mask`)
      to have one; 0 where not, NaN where a value is not finite.

    Raises:
      UserError: not RGB images.
    """
    if images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"normalised median intensity: images are {images.shape}; they must be (b, h, w, 3)")
    rgb = (to_unit(images) + 1) / 2
    tissue = tissue_mask(rgb)
    intensity = jnp.mean(jnp.maximum(rgb, 0.0), axis=-1).reshape(len(rgb), -1)
    quantiles = masked_quantile(intensity, tissue.mask.reshape(len(rgb), -1), (0.5, 0.95))
    median, bright = quantiles[:, 0], quantiles[:, 1]
    nmi = jnp.where(bright > 0, median / jnp.where(bright > 0, bright, 1.0), 0.0)
    broken = ~jnp.all(jnp.isfinite(rgb), axis=(1, 2, 3))
    return jnp.where(broken, jnp.nan, jnp.where(tissue.ok, nmi, 0.0)), tissue.ok | broken


def init() -> jax.Array:
    """An empty accumulator, float32 (4, 2)."""
    return compensated.zeros(len(_SUMS))


def accumulate(acc: jax.Array, images: Image, mask: Mask) -> jax.Array:
    """Add a batch of one set.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      images: as `normalised_median_intensity` takes them.
      mask: (b,), 1 or True for real records and 0 for padding.

    Raises:
      UserError: not RGB images.
    """
    nmi, ok = normalised_median_intensity(images)
    records = [jnp.ones(len(nmi)), ok.astype(jnp.float32), nmi]
    rows = [*(compensated.pair(record) for record in records), compensated.product(nmi, nmi)]
    return compensated.add_records(acc, jnp.stack(rows), mask)


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    return compensated.add(a, b)


def compute(acc: jax.Array) -> dict[str, float]:
    """``nmi`` (mean over tiles), ``nmi_std`` (n - 1 in the denominator), ``nmi_cv`` = nmi_std / nmi.

    Beside them ``images``, all tiles added, and ``tissue``, those with tissue, which alone count. The
    spread of a single tile is absent.

    Raises:
      UserError: when no image was added, or none shows tissue.
    """
    sums = {name: float(value) for name, value in zip(_SUMS, compensated.value(acc), strict=True)}
    if sums["tissue"] == 0:
        raise UserError(
            f"normalised median intensity: none of {sums['images']:.0f} images shows tissue; "
            "it is meant for stained tiles on a white background"
        )
    count, counts = sums["tissue"], {"images": sums["images"], "tissue": sums["tissue"]}
    mean = sums["nmi"] / count
    if count == 1:
        return {"nmi": mean, **counts}
    variance = (sums["squared"] - count * mean**2) / (count - 1)
    std = float(np.sqrt(np.maximum(variance, 0.0)))
    return {"nmi": mean, "nmi_std": std, "nmi_cv": std / mean, **counts}
