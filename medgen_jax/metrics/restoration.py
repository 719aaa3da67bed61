"""What filters restore without a network: unsharp masking and the Wiener filter, both fitted to training pairs.

Rows beside those of `medgen_jax.metrics.baselines`, for systems whose input is a worse image of its target. A network
that does not exceed them has learned no more than one filter for all images.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image
from medgen_jax.metrics import paired
from medgen_jax.ops import filters
from medgen_jax.ops.scale import to_unit

INPUT, UNSHARP, WIENER = "input unchanged", "unsharp mask", "Wiener filter"
#: Radii of the mask that are tried, pixels.
SIGMAS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
#: Bands of radial frequency, up to that of a diagonal, in which the Wiener filter has a gain.
BANDS = 64
#: Training pairs that are looked at.
MOST_PAIRS = 512

_HIGHEST = float(np.hypot(0.5, 0.5))  # cycles per pixel


class Mask(NamedTuple):
    """Unsharp mask: ``x + amount (x - blur(x, sigma))``; sigma in pixels."""

    sigma: float
    amount: float


class Fitted(NamedTuple):
    """The best filters of each kind: a mask, and the gains (`BANDS`,) of the Wiener filter by radial frequency."""

    mask: Mask
    gains: np.ndarray


def unsharp(x: Image, mask: Mask) -> Image:
    """Sharpen images (b, h, w, c); amount 0 returns them."""
    return x + mask.amount * (x - filters.gaussian_blur(x, mask.sigma))


def wiener(x: Image, gains: np.ndarray) -> Image:
    """Multiply each radial frequency by its gain, between the middles of two bands linearly; means are kept."""
    middles = (np.arange(len(gains)) + 0.5) * (_HIGHEST / len(gains))
    return filters.filter_image(x, lambda radius: jnp.where(radius == 0, 1.0, jnp.interp(radius, middles, gains)))


def fit(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Fitted:
    """The filters of least squared error over pairs ``(degraded, target)``.

    Of a mask of given sigma the best amount is a ratio of two sums, ``<y - x, d> / <d, d>`` with ``d = x -
    blur(x)``; one below 0 would blur, and becomes 0. The Wiener gain of a band is ``<X, Y> / <X, X>`` over the
    cosine coefficients in it: of all linear filters that treat directions alike, the best on these pairs.

    Args:
      pairs: HWC of one shape each, uint8, uint16 or float in [-1, 1]; the first `MOST_PAIRS` count.

    Raises:
      UserError: when there are no pairs.
    """
    products, bands, count = np.zeros((2, len(SIGMAS))), np.zeros((2, BANDS)), 0
    for degraded, target in itertools.islice(pairs, MOST_PAIRS):
        of_masks, of_bands = _sums(_batch(degraded), _batch(target))
        products += np.asarray(of_masks, np.float64)
        bands += np.asarray(of_bands, np.float64)
        count += 1
    if not count:
        raise UserError("baselines: there are no training pairs; the training split is empty")
    shared, own = products
    amounts = np.maximum(np.divide(shared, own, out=np.zeros_like(own), where=own > 0), 0)
    best = int(np.argmax(amounts * shared))
    # A band without power has nothing to restore.
    gains = np.divide(bands[0], bands[1], out=np.ones(BANDS), where=bands[1] > 1e-12 * bands[1].max())
    return Fitted(Mask(SIGMAS[best], float(amounts[best])), gains.astype(np.float32))


def restoration_baselines(
    train: Iterable[tuple[np.ndarray, np.ndarray]], test: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, dict[str, float]]:
    """Rows ``input unchanged``, ``unsharp mask`` and ``Wiener filter``, each with the numbers of `paired.compute`.

    Args:
      train: pairs ``(degraded, target)``, HWC, on which the filters are fitted.
      test: pairs of one size, on which they are measured.

    Raises:
      UserError: when one of the two is empty.
    """
    fitted, sums = fit(train), np.stack([paired.init()] * 3)
    restore = jax.jit(functools.partial(_restored, mask=fitted.mask))
    count = 0
    for degraded, target in test:
        sums = _accumulate(sums, restore(_batch(degraded), fitted.gains), _batch(target), np.ones(1, np.float32))
        count += 1
    if not count:
        raise UserError("baselines: there are no test pairs; the split that is evaluated is empty")
    rows = zip((INPUT, UNSHARP, WIENER), np.asarray(sums), strict=True)
    return {row: paired.compute(acc) for row, acc in rows}


_accumulate = jax.jit(jax.vmap(paired.accumulate, in_axes=(0, 0, None, None)))


def _restored(x: jax.Array, gains: jax.Array, mask: Mask) -> jax.Array:
    """Every filter's image, (3, b, h, w, c)."""
    return jnp.clip(jnp.stack([x, unsharp(x, mask), wiener(x, gains)]), -1, 1)


@jax.jit
def _sums(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``<y - x, d>`` and ``<d, d>`` of every sigma; ``<X, Y>`` and ``<X, X>`` of every band."""
    edges = [x - filters.gaussian_blur(x, sigma) for sigma in SIGMAS]
    shared = jnp.stack([jnp.sum((y - x) * d) for d in edges])
    own = jnp.stack([jnp.sum(d * d) for d in edges])
    radius = filters.cosine_frequency(*x.shape[1:3])
    place = np.minimum((radius / _HIGHEST * BANDS).astype(int), BANDS - 1)
    inside = (radius > 0).astype(np.float32)

    def spectrum(image: jax.Array) -> jax.Array:
        planes = jnp.moveaxis(image, -1, 1)
        return jax.scipy.fft.dctn(planes, axes=(2, 3), norm="ortho") * inside[None, None]

    def by_band(power: jax.Array) -> jax.Array:
        return jnp.zeros(BANDS).at[place.ravel()].add(power.sum((0, 1)).ravel())

    given, wanted = spectrum(x), spectrum(y)
    return jnp.stack([shared, own]), jnp.stack([by_band(given * wanted), by_band(given * given)])


def _batch(image: np.ndarray) -> jax.Array:
    """One image as a batch in [-1, 1]."""
    image = np.asarray(image)
    return to_unit((image[..., None] if image.ndim == 2 else image)[None])
