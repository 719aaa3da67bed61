"""Macenko's normaliser: two stain vectors from the angles of optical density, and the amounts exchanged.

Macenko, Niethammer, Marron et al., "A method for normalizing histology slides for quantitative analysis",
ISBI 2009; several targets after Ivanov et al., "Multi-target stain normalization for histology slides",
arXiv 2406.02077. The vectors are those of `medgen_jax.ops.stain_vectors`, the exchange that of
`medgen_jax.stain.concentrations`. Quantiles are exact order statistics, interpolated as NumPy does.

The defaults of `Options` differ from the known packages where those lose something; with these in every
function the results agree within a grey level, the packages' rounding down to integers included:

torchstain 1.4.1   `TORCHSTAIN`. It leaves the added grey level in the result.
tiatoolbox 2.1.3   `TIATOOLBOX`, and ``region=luminous_region(images)``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image
from medgen_jax.ops.stain_vectors import ALPHA, BETA, MINIMUM, WHITE, density_vectors, stained
from medgen_jax.stain import normalised
from medgen_jax.stain.concentrations import Stains, density, exchanged, pool, stains
from medgen_jax.stain.normalised import Normalised

__all__ = [
    "DEFAULT",
    "MODES",
    "PIXELS",
    "TIATOOLBOX",
    "TORCHSTAIN",
    "Options",
    "Stains",
    "fit",
    "measure",
    "pool",
    "transform",
]

PIXELS = ("stained", "all")
MODES = ("avg-post", "concat")


class Options(NamedTuple):
    """How stains are measured and exchanged.

    Attributes:
      white: intensity of unstained glass, in (0, 1].
      black: how black is kept finite, see `concentrations.density`.
      beta: density that a stained pixel exceeds in every channel.
      alpha: share of the angles beyond each robust extreme.
      pixels: which the strongest amounts are taken over: those ``stained``, so that glass beside the
        tissue does not darken it; or ``all``.
    """

    white: float = WHITE
    black: str = "floored"
    beta: float = BETA
    alpha: float = ALPHA
    pixels: str = "stained"


DEFAULT = Options()
TORCHSTAIN = Options(black="added", pixels="all")
TIATOOLBOX = Options(white=1.0, beta=-1.0, pixels="all")


def measure(images: Image, *, options: Options = DEFAULT, region: jax.Array | None = None) -> Stains:
    """The stains of every image.

    Args:
      images: (b, h, w, 3) floats in [0, 1].
      options: see `Options`.
      region: (b, h, w), True where pixels may count; all if left out.

    Returns:
      Looks with a leading axis b; not ``ok`` where under one percent of the pixels, or under 16, are
      stained, or their colours are not two.

    Raises:
      UserError: not such images, a region of another size, or an unknown word.
    """
    planar, counted, usable = _prepared(images, options, region)
    found, ok = density_vectors(planar, counted, alpha=options.alpha)
    measured = counted if options.pixels == "stained" else jnp.ones_like(counted)
    return stains(planar, measured, found, ok & usable)


def fit(
    images: Image, *, mode: str = "avg-post", options: Options = DEFAULT, region: jax.Array | None = None
) -> Stains:
    """The target: one look of one or several images.

    Args:
      images: (b, h, w, 3) floats in [0, 1]; those without stains are left out.
      mode: for several images, ``avg-post``: the mean of their stains, each image counting the same;
        ``concat``: the stains of all their pixels together.
      options: see `Options`.
      region: as in `measure`.

    Raises:
      UserError: what `measure` raises, or an unknown mode.
    """
    if mode not in MODES:
        raise UserError(f"Macenko: mode={mode!r} is unknown; known are: {', '.join(MODES)}")
    looks = measure(images, options=options, region=region)
    if mode == "avg-post":
        return pool(looks)
    planar, counted, _ = _prepared(images, options, region)
    # One image of all pixels, of which those of images without stains do not count.
    usable = looks.ok
    all_pixels = jnp.moveaxis(planar, 1, 0).reshape(1, 3, -1)
    counted = (counted & usable[:, None]).reshape(1, -1)
    found, ok = density_vectors(all_pixels, counted, alpha=options.alpha)
    if options.pixels == "all":
        counted = jnp.repeat(usable, planar.shape[-1])[None]
    look = stains(all_pixels, counted, found, ok & jnp.any(usable)[None])
    return jax.tree.map(lambda leaf: leaf[0], look)


def transform(
    target: Stains,
    images: Image,
    source: Stains | None = None,
    *,
    options: Options = DEFAULT,
    region: jax.Array | None = None,
) -> Normalised:
    """The images with the stains of ``target``.

    Args:
      target: what `fit` returned, or one look for each image.
      images: (b, h, w, 3) floats in [0, 1].
      source: the looks of the images, or one for all of them; measured from each image if left out.
      options: see `Options`.
      region: as in `measure`, used where the source is measured.

    Returns:
      The images; one that has no stains, or a target without, comes back unchanged and not ``ok``.

    Raises:
      UserError: what `measure` raises, or looks of another number of images.
    """
    if source is None:
        source = measure(images, options=options, region=region)
    return exchanged(target, images, source, white=options.white, black=options.black)


def _prepared(images: Image, options: Options, region: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Densities (b, 3, n), which pixels are stained (b, n), and which images are finite and stained enough (b,)."""
    if options.pixels not in PIXELS:
        raise UserError(f"Macenko: pixels={options.pixels!r} is unknown; known are: {', '.join(PIXELS)}")
    if region is not None and region.shape != images.shape[:3]:
        raise UserError(f"Macenko: regions are {region.shape}, the images {images.shape}; one (b, h, w) goes with them")
    safe, finite = normalised.checked(images)
    planar = density(safe, white=options.white, black=options.black)
    counted = stained(planar, options.beta)
    if region is not None:
        counted &= region.reshape(len(images), -1) > 0
    share = jnp.mean(counted.astype(jnp.float32), axis=-1)
    return planar, counted, finite & (share >= MINIMUM) & normalised.enough(counted)
