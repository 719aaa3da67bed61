"""Linear filters of images, in space and in frequency.

Images are (b, h, w, c) float32. Frequencies are in cycles per pixel: 0.5 is the finest that one axis
carries, the corner of the plane lies at 0.707. A frequency response is any function of the radial
frequency; `filter_image` applies one, and `butterworth_low` and its kin make them.

Filtering mirrors the image at its borders (the edge pixel repeated), so that nothing wraps round from
the opposite side. The Fourier transform of an image mirrored in both directions is its cosine
transform, so that is what is multiplied: no padding, no complex numbers, the same result.

Cutoffs may be traced, so a sweep over them compiles once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image

Response = Callable[[jax.Array], jax.Array]


# --- windows and blurs in space ---------------------------------------------------------------------------


def gaussian_taps(size: int, sigma: float) -> list[float]:
    """Weights of a sampled Gaussian, ``size`` of them (odd), that sum to 1; ``sigma`` in pixels."""
    taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return [float(tap) for tap in taps / taps.sum()]


def correlate(x: jax.Array, taps: list[float], axis: int) -> jax.Array:
    """Correlation along one axis where all taps lie inside: n - len(taps) + 1 positions remain.

    Written as shifted adds: the grouped convolution it would otherwise be is several times slower on CPUs.
    """
    size = x.shape[axis] - len(taps) + 1
    return sum(tap * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i, tap in enumerate(taps))


def gaussian_blur(x: Image, sigma: float, *, truncate: float = 4.0) -> Image:
    """Gaussian blur with mirrored borders, the edge pixel repeated, as ``scipy.ndimage.gaussian_filter``.

    Args:
      x: (b, h, w, c).
      sigma: standard deviation in pixels, not negative; 0 returns the image.
      truncate: radius of the kernel in standard deviations.

    Raises:
      UserError: sigma is negative or not finite.
    """
    if not 0 <= sigma < float("inf"):
        raise UserError(f"gaussian_blur: sigma {sigma}; it must be a finite number of pixels, 0 or more")
    x = x.astype(jnp.float32)
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    taps = gaussian_taps(2 * radius + 1, sigma)
    for axis in (1, 2):
        pads = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        x = correlate(jnp.pad(x, pads, mode="symmetric"), taps, axis)
    return x


def hann(size: int) -> np.ndarray:
    """Hann window of ``size`` samples at pixel centres: ``sin^2(pi (i + 1/2) / size)``, float32.

    Symmetric and nowhere zero: the usual window moved by half a sample, whose spectrum has the same magnitude.
    """
    return np.square(np.sin(np.pi * (np.arange(size) + 0.5) / size)).astype(np.float32)


def hann_window(height: int, width: int) -> np.ndarray:
    """Separable Hann window (height, width), float32."""
    return np.outer(hann(height), hann(width))


# --- frequencies and responses ----------------------------------------------------------------------------


def radial_frequency(height: int, width: int) -> np.ndarray:
    """Radial frequency of each sample of ``rfft2``, (height, width // 2 + 1) float32, cycles per pixel."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]).astype(np.float32)


def cosine_frequency(height: int, width: int) -> np.ndarray:
    """Radial frequency of each sample of the cosine transform, (height, width) float32, cycles per pixel."""
    rows, columns = np.arange(height) / (2 * height), np.arange(width) / (2 * width)
    return np.hypot(rows[:, None], columns[None, :]).astype(np.float32)


def butterworth_low(radius: jax.Array, cutoff: float | jax.Array, order: float = 2) -> jax.Array:
    """Low-pass gain ``1 / (1 + (radius / cutoff)^(2 order))``: 1 at frequency 0, one half at the cutoff.

    Args:
      radius: radial frequency, any shape.
      cutoff: positive, cycles per pixel.
      order: steepness n, positive.

    Raises:
      UserError: a cutoff or an order that is not positive.
    """
    return jax.nn.sigmoid(-_log_ratio(radius, cutoff, order))


def butterworth_high(radius: jax.Array, cutoff: float | jax.Array, order: float = 2) -> jax.Array:
    """High-pass gain ``1 - butterworth_low``: low- and high-passed image add up to the image."""
    return jax.nn.sigmoid(_log_ratio(radius, cutoff, order))


def butterworth_band(
    radius: jax.Array, low: float | jax.Array, high: float | jax.Array, order: float = 2, *, keep_mean: bool = False
) -> jax.Array:
    """Band-pass gain ``butterworth_low(high) - butterworth_low(low)``, with low < high.

    Adjoining bands with the low pass below and the high pass above them add up to 1. A band as narrow
    as an octave peaks well below 1.

    Args:
      radius: radial frequency, any shape.
      low: lower cutoff, positive, cycles per pixel.
      high: upper cutoff.
      order: steepness of both edges.
      keep_mean: gain 1 instead of 0 at frequency 0, which keeps the mean of every channel.

    Raises:
      UserError: as `butterworth_low`, and when low is not below high.
    """
    _check_band(low, high)
    gain = butterworth_low(radius, high, order) - butterworth_low(radius, low, order)
    return _with_mean(gain, radius) if keep_mean else gain


def ideal_low(radius: jax.Array, cutoff: float | jax.Array) -> jax.Array:
    """1 up to and including the cutoff, 0 above; rings at edges, where Butterworth does not."""
    return (jnp.asarray(radius) <= cutoff).astype(jnp.float32)


def ideal_high(radius: jax.Array, cutoff: float | jax.Array) -> jax.Array:
    """1 above the cutoff, 0 up to and including it."""
    return (jnp.asarray(radius) > cutoff).astype(jnp.float32)


def ideal_band(
    radius: jax.Array, low: float | jax.Array, high: float | jax.Array, *, keep_mean: bool = False
) -> jax.Array:
    """1 for low < radius <= high, 0 elsewhere: adjoining bands part the plane; ``keep_mean`` as `butterworth_band`."""
    _check_band(low, high)
    gain = ideal_low(radius, high) - ideal_low(radius, low)
    return _with_mean(gain, radius) if keep_mean else gain


def filter_image(x: Image, response: Response) -> Image:
    """Multiply an image's frequencies by a gain, mirroring it at the borders.

    Args:
      x: (b, h, w, c).
      response: gain of a radial frequency (h, w) in cycles per pixel, for example
        ``functools.partial(butterworth_low, cutoff=0.1)``.

    Returns:
      (b, h, w, c) float32. The mean of each channel is multiplied by ``response(0)``.
    """
    gain = response(jnp.asarray(cosine_frequency(*x.shape[1:3])))
    # The transform wants its axes last; norm "ortho" makes the pair exact inverses in float32 as well.
    planes = jnp.moveaxis(x.astype(jnp.float32), -1, 1)
    spectrum = jax.scipy.fft.dctn(planes, axes=(2, 3), norm="ortho")
    filtered = jax.scipy.fft.idctn(spectrum * gain[None, None], axes=(2, 3), norm="ortho")
    return jnp.moveaxis(filtered, 1, -1)


def _log_ratio(radius: jax.Array, cutoff: float | jax.Array, order: float) -> jax.Array:
    """``ln (radius / cutoff)^(2 order)``: the gain is a logistic in it, which no order overflows."""
    if order <= 0 or (isinstance(cutoff, (int, float)) and not cutoff > 0):
        raise UserError(f"Butterworth filter: cutoff {cutoff} and order {order}; both must be positive")
    return 2 * order * (jnp.log(jnp.asarray(radius, jnp.float32)) - jnp.log(cutoff))


def _check_band(low: float | jax.Array, high: float | jax.Array) -> None:
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and not low < high:
        raise UserError(f"band-pass filter: cutoffs {low} and {high}; the lower one must come first")


def _with_mean(gain: jax.Array, radius: jax.Array) -> jax.Array:
    return jnp.where(jnp.asarray(radius) == 0, 1.0, gain)
