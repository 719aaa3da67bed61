"""How sharp an image is, without a reference: one number per image, the larger the sharper.

Comparisons are between images of one field: sharpness of different objects is not comparable. With I
the intensity, (x + 1) / 2 of values x in [-1, 1], and gradients over pixels of the given size:

| measure | formula | I + a | k I | source |
|---|---|---|---|---|
| `laplacian_variance` | var of the 4-neighbour Laplacian | same | k^2 | Pech-Pacheco et al., ICPR 2000 |
| `tenengrad` | mean of the squared Sobel gradient | same | k^2 | Krotkov, IJCV 1, 1987 |
| `brenner` | mean of (I(x + 2) - I(x))^2, both axes | same | k^2 | Brenner et al., J. Histochem. Cytochem. 24, 1976 |
| `normalised_variance` | var / mean | falls | k | Groen et al., Cytometry 6, 1985 |
| `relative_gradient` | tenengrad / var | same | same | |
| `high_frequency_share` | share of the variance above a frequency | same | same | |
| `power_slope` | log-log slope of the radial power spectrum | same | same | Bray et al., J. Biomol. Screen. 17, 2012 |

The last three alone may be compared between exposures. All are finite for constant images (0, and 0 for
the slope, which is negative for pictures), and count camera noise as sharpness. Border pixels without
neighbours are left out. Several channels are averaged. Pure, traced: they run under jit.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image
from medgen_jax.metrics import spectra
from medgen_jax.ops.scale import to_unit

Scores = jax.Array  # (b,)

CUT = 0.125  # cycles per pixel: periods below 8 pixels
#: Variance of the rounding of 16-bit images: what has less is constant.
FLAT = (1 / 65535) ** 2 / 12


def laplacian_variance(images: Image) -> Scores:
    """Variance of ``I(left) + I(right) + I(up) + I(down) - 4 I``, (b,).

    Args:
      images: (b, h, w, c), floats in [-1, 1], or uint8 or uint16 over their full range.

    Raises:
      UserError: not (b, h, w, c), or smaller than 3 pixels.
    """
    x = _intensity(images)
    centre = x[:, 1:-1, 1:-1]
    around = (x[:, :-2, 1:-1] - centre) + (x[:, 2:, 1:-1] - centre) + (x[:, 1:-1, :-2] - centre)
    laplacian = around + (x[:, 1:-1, 2:] - centre)
    return _over_channels(jnp.var(laplacian, axis=(1, 2)))


def tenengrad(images: Image) -> Scores:
    """Mean of the squared gradient by Sobel's kernels over 8, in intensity per pixel, (b,).

    No threshold. Args and errors as `laplacian_variance`.
    """
    return _over_channels(_gradient(_intensity(images)))


def brenner(images: Image) -> Scores:
    """Mean squared difference of pixels two apart, sum of both axes, (b,).

    Args and errors as `laplacian_variance`.
    """
    x = _intensity(images)
    down, right = x[:, 2:] - x[:, :-2], x[:, :, 2:] - x[:, :, :-2]
    return _over_channels(jnp.mean(jnp.square(down), axis=(1, 2)) + jnp.mean(jnp.square(right), axis=(1, 2)))


def normalised_variance(images: Image) -> Scores:
    """Variance of the intensity over its mean, (b,); black images have 0.

    Args and errors as `laplacian_variance`.
    """
    x = _intensity(images)
    mean = jnp.mean(x, axis=(1, 2))
    return _over_channels(_ratio(jnp.var(x, axis=(1, 2)), mean))


def relative_gradient(images: Image) -> Scores:
    """`tenengrad` over the variance of the intensity: mean squared frequency of the picture, (b,).

    Args and errors as `laplacian_variance`.
    """
    x = _intensity(images)
    variance = jnp.var(x, axis=(1, 2))
    return _over_channels(jnp.where(variance > FLAT, _ratio(_gradient(x), variance), 0))


def high_frequency_share(images: Image, cut: float = CUT) -> Scores:
    """Share of the variance at radial frequencies above ``cut``, (b,) in [0, 1].

    Args:
      images: as `laplacian_variance`, of 16 pixels or more.
      cut: cycles per pixel, between 0 and 0.7; best below the resolution of the optics and above that out of focus.

    Raises:
      UserError: as `spectra.power_spectrum`, and for another cut.
    """
    if not 0 < cut < 0.7:
        raise UserError(f"high_frequency_share: cut {cut}; it must lie between 0 and 0.7 cycles per pixel")
    low, high = spectra.band_power(images, (cut,)).T
    variance = low + high
    return jnp.where(variance > 4 * FLAT, _ratio(high, variance), 0)


def power_slope(images: Image) -> Scores:
    """Exponent s of power ~ frequency^s, (b,), as `spectra.spectral_slope` fits it; sharper images are flatter.

    Args and errors as `high_frequency_share`.
    """
    low, high = spectra.SLOPE_RANGE
    frequencies = spectra.ring_frequencies(*images.shape[1:3])
    used = (frequencies >= low) & (frequencies <= high)
    power = jnp.maximum(spectra.radial_power_spectrum(images)[:, used], spectra.FLOOR)
    # Least squares are linear in what is fitted; weights 1 / f, so that every octave counts the same.
    x, weights = np.log(frequencies[used]), 1 / frequencies[used]
    x = x - np.average(x, weights=weights)
    return jnp.log(power) @ jnp.asarray(weights * x / np.sum(weights * x * x), jnp.float32)


#: Name -> measure.
MEASURES: dict[str, Callable[[Image], Scores]] = {
    measure.__name__: measure
    for measure in (
        laplacian_variance,
        tenengrad,
        brenner,
        normalised_variance,
        relative_gradient,
        high_frequency_share,
        power_slope,
    )
}


def _intensity(images: Image) -> jax.Array:
    if images.ndim != 4 or min(images.shape[1:3]) < 3:
        raise UserError(f"focus measures: images are {images.shape}; they must be (b, h, w, c), 3 pixels or more")
    return (to_unit(images) + 1) / 2


def _gradient(x: jax.Array) -> jax.Array:
    """Mean squared Sobel gradient per image and channel, (b, c)."""

    def smooth(d: jax.Array, axis: int) -> jax.Array:
        before, at, after = (jax.lax.slice_in_dim(d, i, i + d.shape[axis] - 2, axis=axis) for i in range(3))
        return (before + 2 * at + after) / 4

    down = smooth(x[:, 2:] - x[:, :-2], 2) / 2
    right = smooth(x[:, :, 2:] - x[:, :, :-2], 1) / 2
    return jnp.mean(jnp.square(down) + jnp.square(right), axis=(1, 2))


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Quotient that is 0 where nothing is divided by nothing."""
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _over_channels(scores: jax.Array) -> Scores:
    return jnp.mean(scores, axis=-1)
