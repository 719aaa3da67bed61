"""Where a histology tile shows stained tissue, with fixed shapes.

Tiles are sRGB (b, h, w, 3) in [0, 1], as in `medgen_jax.ops.colour`. A pixel is tissue if it absorbs
light and has a colour: glass absorbs nothing, while dust, ink and folds are grey. The mask has the
shape of the tile whatever it shows, and a flag says whether there is enough of it; so everything that
follows compiles once and blank tiles pass through.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.ops.colour import rgb_to_hsv, rgb_to_od

DENSITY = 0.15  # Macenko's beta
SATURATION = 0.05
MINIMUM = 0.01  # share of a tile that must be tissue
_BINS = 256


class Tissue(NamedTuple):
    """What `tissue_mask` found.

    Attributes:
      mask: (b, h, w) bool, True on tissue.
      fraction: (b,) float32, share of the pixels that are tissue.
      ok: (b,) bool, whether that is enough to measure or normalise.
    """

    mask: jax.Array
    fraction: jax.Array
    ok: jax.Array


def tissue_mask(
    rgb: jax.Array,
    *,
    density: float = DENSITY,
    saturation: float = SATURATION,
    otsu: bool = False,
    minimum: float = MINIMUM,
) -> Tissue:
    """Tissue: mean optical density and saturation both above a threshold.

    Args:
      rgb: (b, h, w, 3) in [0, 1], white background. A pixel that is NaN is not tissue.
      density: threshold of the mean over channels of ``-ln rgb``.
      saturation: threshold of (largest - smallest channel) / largest.
      otsu: raise the density threshold to the one that Otsu's method finds in each tile. Right for
        tiles or thumbnails with glass in them; a tile full of tissue it splits into dark and light.
      minimum: share of the pixels from which ``ok`` is True.

    Raises:
      UserError: not (b, h, w, 3), or integers.
    """
    if rgb.ndim != 4:
        raise UserError(f"tissue mask: tiles of shape {rgb.shape}; they must be (b, h, w, 3)")
    absorbed = jnp.mean(rgb_to_od(rgb, floor=1 / 255), axis=-1)
    threshold = jnp.full(rgb.shape[0], density, jnp.float32)
    if otsu:
        threshold = jnp.maximum(threshold, otsu_threshold(absorbed, low=0.0, high=float(np.log(255))))
    mask = (absorbed > threshold[:, None, None]) & (rgb_to_hsv(rgb)[..., 1] > saturation)
    fraction = jnp.mean(mask.astype(jnp.float32), axis=(1, 2))
    return Tissue(mask, fraction, fraction >= minimum)


def otsu_threshold(values: jax.Array, *, low: float, high: float) -> jax.Array:
    """The threshold that parts each image's histogram into the two classes furthest apart.

    Otsu, IEEE Trans. Syst. Man Cybern. 9(1), 1979: the maximum of the variance between the classes,
    over 256 equal bins.

    Args:
      values: (b, h, w); beyond the range counts into the outermost bins.
      low: lower end of the histogram.
      high: upper end.

    Returns:
      (b,): the upper edge of the last bin of the lower class. Values of one bin alone give that
      bin's upper edge, so none lies above it.
    """
    scaled = (values.astype(jnp.float32) - low) * (_BINS / (high - low))
    bins = jnp.clip(jnp.floor(scaled), 0, _BINS - 1).astype(jnp.int32).reshape(len(values), -1)
    counts = jax.vmap(lambda row: jnp.zeros(_BINS).at[row].add(1.0))(bins)
    variance = _between_classes(counts)
    # One occupied bin alone has no second class: the split falls on the bin itself.
    split = jnp.argmax(jnp.where(jnp.max(variance, -1, keepdims=True) > 0, variance, counts), axis=-1)
    return low + (split + 1) * ((high - low) / _BINS)


def _between_classes(counts: jax.Array) -> jax.Array:
    """Variance between the classes at or below each bin and above it, (b, bins) -> (b, bins)."""
    share = counts / jnp.sum(counts, axis=-1, keepdims=True)
    below = jnp.cumsum(counts, axis=-1)
    moment = jnp.cumsum(share * jnp.arange(_BINS, dtype=jnp.float32)[None], axis=-1)
    both = (below > 0) & (below < below[:, -1:])
    weight = jnp.where(both, below / below[:, -1:], 0.5)
    return jnp.where(both, (moment[:, -1:] * weight - moment) ** 2 / (weight * (1 - weight)), 0.0)
