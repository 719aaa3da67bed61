"""Spectra of image sets: how much of the picture lies at which scale, and where generated images lack it.

Frequencies are in cycles per pixel. Each channel's mean is taken off, a Hann window keeps the borders from
leaking, and the power |F|^2 over the window's energy is averaged over channels; white noise of variance
v has power v at every frequency. Two summaries of that plane:

* the radial spectrum: its mean over rings of width 1/n, n the shorter side, centred on 1/n, 2/n, ... up
  to 0.5;
* the shares of the variance in bands of radial frequency, over the whole plane with its corners: the
  bands part it, so their shares add up to 1.

``init / accumulate / merge / compute`` run over one set of images of one size, as for the Frechet
distance: accumulate each set, then ``compute(real, fake)``, or `describe` for a single set. The
accumulator is sums of `medgen_jax.ops.compensated`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image, Mask
from medgen_jax.ops import compensated
from medgen_jax.ops.filters import hann_window, radial_frequency
from medgen_jax.ops.scale import to_unit

HIGH = 0.25  # cycles per pixel from which frequencies count as high
BANDS = (1 / 32, 1 / 16, 1 / 8, HIGH)  # edges; below the first is the coarsest band, above the last the finest
SLOPE_RANGE = (1 / 32, 0.4)  # where the slope is fitted
FLOOR = (2 / 65535) ** 2 / 12  # power of the rounding of 16-bit images: less than that counts as that
SMALLEST = 16  # pixels: below, the range of the slope holds too few rings


def ring_frequencies(height: int, width: int) -> np.ndarray:
    """Centres of the rings of the radial spectrum, (rings,), cycles per pixel."""
    side = min(height, width)
    return np.arange(1, side // 2 + 1) / side


def power_spectrum(images: Image) -> jax.Array:
    """Power of each frequency of ``rfft2``, (b, h, w // 2 + 1), mean over channels, in squared units of [-1, 1].

    Args:
      images: (b, h, w, c), floats in [-1, 1], or uint8 or uint16 over their full range.

    Raises:
      UserError: not (b, h, w, c), or smaller than 16 pixels.
    """
    if images.ndim != 4:
        raise UserError(f"spectra: images are {images.shape}; they must be (b, h, w, c)")
    height, width = images.shape[1:3]
    if min(height, width) < SMALLEST:
        raise UserError(f"spectra: images of {height}x{width} pixels; at least {SMALLEST} on each side are needed")
    window = hann_window(height, width)
    planes = jnp.moveaxis(to_unit(images), -1, 1)
    weights = jnp.asarray(window / window.sum())[None, None]
    # The mean under the window, so that nothing of it leaks into the lowest ring.
    planes = planes - jnp.sum(planes * weights, axis=(2, 3), keepdims=True)
    spectrum = jnp.fft.rfft2(planes * jnp.asarray(window)[None, None])
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.mean(power, axis=1) / float(np.square(window, dtype=np.float64).sum())


def radial_power_spectrum(images: Image) -> jax.Array:
    """Mean power of each ring of each image, (b, rings), at `ring_frequencies`.

    Args and errors as `power_spectrum`.
    """
    return _rings(power_spectrum(images), *images.shape[1:3])


def band_power(images: Image, edges: tuple[float, ...] = BANDS) -> jax.Array:
    """Variance of each image in each band of radial frequency, (b, len(edges) + 1).

    The sum over bands is the variance under the window; a band holds its upper edge.

    Args:
      images: as `power_spectrum` takes them.
      edges: ascending, cycles per pixel.

    Raises:
      UserError: as `power_spectrum`, and when the edges do not ascend.
    """
    return _bands(power_spectrum(images), *images.shape[1:3], edges)


def spectral_slope(spectrum: np.ndarray, frequencies: np.ndarray) -> float:
    """Exponent s of power ~ frequency^s, by least squares on a log-log scale within `SLOPE_RANGE`.

    Natural images lie near -2 to -3, white noise at 0. Every octave weighs the same.

    Args:
      spectrum: (rings,) mean power.
      frequencies: (rings,) cycles per pixel.
    """
    low, high = SLOPE_RANGE
    used = (frequencies >= low) & (frequencies <= high)
    x, y = np.log(frequencies[used]), np.log(np.maximum(spectrum[used], FLOOR))
    weights = 1 / frequencies[used]  # rings are evenly spaced: so many of them fall into an octave
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    return float(np.sum(weights * x * y) / np.sum(weights * x * x))


def init(height: int, width: int) -> jax.Array:
    """An empty accumulator for images of one size, float32 (2 + rings + 5, 2)."""
    return compensated.zeros(2 + len(ring_frequencies(height, width)) + len(BANDS) + 1)


def accumulate(acc: jax.Array, images: Image, mask: Mask) -> jax.Array:
    """Add a batch of one set.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      images: as `power_spectrum` takes them.
      mask: (b,), 1 or True for real records and 0 for padding.

    Raises:
      UserError: as `power_spectrum`, and when the images are of another size than ``acc``.
    """
    power, (height, width) = power_spectrum(images), images.shape[1:3]
    if acc.shape != init(height, width).shape:
        raise UserError(
            f"spectra: images of {height}x{width} pixels do not fit the ones before; cut or resize them to one size"
        )
    counts = jnp.asarray([1.0, min(height, width)])[:, None] * jnp.ones((1, len(images)))
    rows = [counts, _rings(power, height, width).T, _bands(power, height, width, BANDS).T]
    return compensated.add_records(acc, jnp.concatenate(rows), mask)


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    return compensated.add(a, b)


class SetSpectrum(NamedTuple):
    """Mean spectrum of a set of images, float64.

    Attributes:
      images: how many.
      frequencies: (rings,) cycles per pixel.
      rings: (rings,) mean power of each ring.
      bands: (5,) variance in each band of `BANDS`.
    """

    images: int
    frequencies: np.ndarray
    rings: np.ndarray
    bands: np.ndarray


def mean_spectrum(acc: jax.Array) -> SetSpectrum:
    """The spectrum of everything added, for curves and further measures.

    Raises:
      UserError: when no image was added, or images of different sizes were.
    """
    images, sides, *sums = compensated.value(acc)
    if images == 0:
        raise UserError("spectra: no image was added; the set is empty")
    side = sides / images
    if side != round(side):
        raise UserError("spectra: sets of images of different sizes were merged; cut or resize them to one size")
    frequencies = ring_frequencies(round(side), round(side))
    rings, bands = np.split(np.asarray(sums) / images, [len(frequencies)])
    return SetSpectrum(int(images), frequencies, rings, bands)


def describe(acc: jax.Array) -> dict[str, float]:
    """``slope`` (`spectral_slope`) and ``high_share``, the share of the variance above 0.25 cycles per pixel.

    The share of a set without any variance is 0.

    Raises:
      UserError: as `mean_spectrum`.
    """
    spectrum = mean_spectrum(acc)
    return {
        "slope": spectral_slope(spectrum.rings, spectrum.frequencies),
        "high_share": float(spectrum.bands[-1] / np.maximum(spectrum.bands.sum(), FLOOR)),
    }


def compute(real: jax.Array, fake: jax.Array) -> dict[str, float]:
    """How the spectrum of a generated set differs from that of real images.

    Returns:
      ``spectral_distance``: root mean square over rings of ``10 log10(fake / real)``, in dB, 0 for equal
      spectra; ``low_ratio`` and ``high_ratio``: ``10 log10`` of the variance at most and above 0.25
      cycles per pixel, fake over real; ``band_ratio_0`` to ``band_ratio_4``: the same in each band of
      `BANDS`, coarsest first; ``slope_real``, ``slope_fake``, ``high_share_real``, ``high_share_fake``
      as in `describe`.

    Raises:
      UserError: as `mean_spectrum`, and when the two sets differ in image size.
    """
    sets = mean_spectrum(real), mean_spectrum(fake)
    if not np.array_equal(sets[0].frequencies, sets[1].frequencies):
        raise UserError("spectra: real and fake images differ in size; cut or resize both to one size")
    lows, highs = ([s.bands[:-1].sum() for s in sets], [s.bands[-1] for s in sets])
    bands = _decibels(sets[0].bands, sets[1].bands)
    described = {"real": describe(real), "fake": describe(fake)}
    return {
        "spectral_distance": float(np.sqrt(np.mean(_decibels(sets[0].rings, sets[1].rings) ** 2))),
        "low_ratio": float(_decibels(*lows)),
        "high_ratio": float(_decibels(*highs)),
        **{f"band_ratio_{i}": float(value) for i, value in enumerate(bands)},
        **{f"{name}_{side}": described[side][name] for name in ("slope", "high_share") for side in described},
    }


def _decibels(real, fake):
    return 10 * np.log10(np.maximum(fake, FLOOR) / np.maximum(real, FLOOR))


def _multiplicity(height: int, width: int) -> np.ndarray:
    """How often each sample of ``rfft2`` stands in the whole plane, (h, w // 2 + 1)."""
    times = np.full(width // 2 + 1, 2.0, np.float32)
    times[0] = 1
    if width % 2 == 0:
        times[-1] = 1
    return np.broadcast_to(times, (height, len(times)))


def _rings(power: jax.Array, height: int, width: int) -> jax.Array:
    """Azimuthal means, (b, h, w // 2 + 1) -> (b, rings)."""
    rings = len(ring_frequencies(height, width))
    ring = np.floor(radial_frequency(height, width) * min(height, width) + 0.5).astype(int)
    times = _multiplicity(height, width)
    counts = np.bincount(ring.ravel(), times.ravel())[1 : rings + 1]
    sums = _sum_by(power * times[None], ring, rings + 2)[:, 1 : rings + 1]
    return sums / jnp.asarray(counts, jnp.float32)[None]


def _bands(power: jax.Array, height: int, width: int, edges: tuple[float, ...]) -> jax.Array:
    """Variance per band, (b, h, w // 2 + 1) -> (b, len(edges) + 1)."""
    if list(edges) != sorted(set(edges)):
        raise UserError(f"spectra: band edges {edges}; they must ascend")
    band = np.searchsorted(np.asarray(edges, np.float32), radial_frequency(height, width))
    times = _multiplicity(height, width) / np.float32(height * width)
    return _sum_by(power * times[None], band, len(edges) + 1)


def _sum_by(power: jax.Array, group: np.ndarray, groups: int) -> jax.Array:
    """Sums of (b, h, w) over the samples of each group, (b, groups); the last group takes all that lie beyond."""
    index = np.minimum(group, groups - 1).ravel()
    return jnp.zeros((len(power), groups)).at[:, index].add(power.reshape(len(power), -1))
