"""Filters: gains by formula, low and high parts that add up, borders, agreement with direct transforms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medgen_jax.core.errors import UserError
from medgen_jax.ops import filters

RADIUS = np.linspace(0, 0.7, 71, dtype=np.float32)
IMAGE = np.random.default_rng(0).uniform(-1, 1, (2, 20, 27, 2)).astype(np.float32)


@jax.jit
def low_passed(x: jax.Array, cutoff: jax.Array, order: float = 2) -> jax.Array:
    return filters.filter_image(x, functools.partial(filters.butterworth_low, cutoff=cutoff, order=order))


blur = jax.jit(filters.gaussian_blur, static_argnums=1)


def direct(image: np.ndarray, gain) -> np.ndarray:
    """The same filter by its definition: mirror to twice the size, transform, multiply, transform back; float64."""
    height, width = image.shape[1:3]
    mirrored = np.pad(image.astype(np.float64), ((0, 0), (0, height), (0, width), (0, 0)), mode="symmetric")
    radius = np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.fftfreq(2 * width)[None])
    spectrum = np.fft.fft2(mirrored, axes=(1, 2)) * gain(radius)[None, :, :, None]
    return np.fft.ifft2(spectrum, axes=(1, 2)).real[:, :height, :width]


@pytest.mark.parametrize(("cutoff", "order"), [(0.1, 2), (0.25, 1), (0.03, 8), (0.01, 40)])
def test_butterworth_by_formula(cutoff: float, order: float) -> None:
    with np.errstate(over="ignore"):
        wanted = 1 / (1 + (RADIUS.astype(np.float64) / cutoff) ** (2 * order))
    low, high = (f(RADIUS, cutoff, order) for f in (filters.butterworth_low, filters.butterworth_high))
    np.testing.assert_allclose(low, wanted, atol=1e-5)
    np.testing.assert_allclose(low + high, 1, atol=2e-7)
    assert float(low[0]) == 1
    assert float(high[0]) == 0


def test_half_at_the_cutoff_and_images_of_one_pixel() -> None:
    assert float(filters.butterworth_low(jnp.float32(0.2), 0.2)) == 0.5
    assert filters.radial_frequency(1, 1).shape == filters.cosine_frequency(1, 1).shape == (1, 1)
    one = np.full((1, 1, 1, 1), 0.3, np.float32)
    np.testing.assert_allclose(low_passed(one, 0.1), one)
    np.testing.assert_allclose(blur(one, 0.5), one, rtol=1e-6)


def test_frequencies_of_the_two_transforms() -> None:
    radius = filters.radial_frequency(4, 6)
    assert radius.shape == (4, 4)
    np.testing.assert_allclose(radius[:, 0], [0, 0.25, 0.5, 0.25])
    np.testing.assert_allclose(radius[0], [0, 1 / 6, 1 / 3, 0.5], rtol=1e-6)
    assert radius.max() == pytest.approx(np.sqrt(0.5))
    np.testing.assert_allclose(filters.cosine_frequency(4, 2)[:, 0], [0, 0.125, 0.25, 0.375])


def test_filtered_as_the_mirrored_transform() -> None:
    wanted = direct(IMAGE, lambda r: 1 / (1 + (r / 0.1) ** 4))
    np.testing.assert_allclose(low_passed(IMAGE, 0.1), wanted, atol=2e-6)
    band = functools.partial(filters.ideal_band, low=0.12, high=0.31)
    np.testing.assert_allclose(
        jax.jit(lambda x: filters.filter_image(x, band))(IMAGE),
        direct(IMAGE, lambda r: (r > np.float32(0.12)) & (r <= np.float32(0.31))),
        atol=2e-6,
    )


def test_low_and_high_part_add_up_to_the_image() -> None:
    high_pass = functools.partial(filters.butterworth_high, cutoff=0.15)
    low, high = low_passed(IMAGE, 0.15), jax.jit(lambda x: filters.filter_image(x, high_pass))(IMAGE)
    np.testing.assert_allclose(low + high, IMAGE, atol=2e-6)
    np.testing.assert_allclose(low.mean((1, 2)), IMAGE.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(high.mean((1, 2)), 0, atol=1e-6)
    assert 0.05 < float(np.std(low) / np.std(IMAGE)) < 0.6


@pytest.mark.parametrize("kind", ["butterworth", "ideal"])
def test_adjoining_bands_part_the_plane(kind: str) -> None:
    low, high, band = (getattr(filters, f"{kind}_{name}") for name in ("low", "high", "band"))
    total = low(RADIUS, 0.1) + band(RADIUS, 0.1, 0.25) + band(RADIUS, 0.25, 0.4) + high(RADIUS, 0.4)
    np.testing.assert_allclose(total, 1, atol=3e-7)
    assert float(band(RADIUS, 0.1, 0.25)[0]) == 0
    kept = band(RADIUS, 0.1, 0.25, keep_mean=True)
    assert float(kept[0]) == 1
    np.testing.assert_array_equal(kept[1:], band(RADIUS, 0.1, 0.25)[1:])


def test_mirroring_keeps_opposite_borders_apart() -> None:
    """A ramp would leap at a border that wraps round; a mirrored one hardly bends."""
    ramp = np.broadcast_to(np.linspace(-1, 1, 64, dtype=np.float32)[None, :, None, None], (1, 64, 8, 1))
    error = np.abs(np.asarray(low_passed(ramp, 0.1)) - ramp)
    assert error.max() < 0.06
    gain = filters.butterworth_low(np.abs(np.fft.fftfreq(64)), 0.1)
    wrapped = np.fft.ifft(np.fft.fft(ramp[0, :, 0, 0]) * np.asarray(gain)).real
    assert np.abs(wrapped - ramp[0, :, 0, 0]).max() > 0.5


def test_gaussian_blur_as_scipy() -> None:
    """The second image is narrower than its kernel's radius of 8."""
    for image, sigma in ((IMAGE, 0.8), (IMAGE[:, :5], 2.0)):
        wanted = ndimage.gaussian_filter(image.astype(np.float64), (0, sigma, sigma, 0), mode="reflect")
        np.testing.assert_allclose(blur(image, sigma), wanted, atol=1e-6)
    np.testing.assert_array_equal(blur(IMAGE, 0.0), IMAGE)


def test_hann_window_is_symmetric_and_its_square_sums_to_three_eighths() -> None:
    window = filters.hann(32)
    np.testing.assert_allclose(window, window[::-1], rtol=1e-5)
    assert window.min() > 0
    assert float(np.square(window).mean()) == pytest.approx(3 / 8, rel=1e-6)
    assert filters.hann(1) == 1
    assert filters.hann_window(3, 5).shape == (3, 5)


def test_cutoffs_are_data_and_nan_shows() -> None:
    low_passed(IMAGE, 0.2)
    before = low_passed._cache_size()
    low_passed(IMAGE, 0.3)
    assert low_passed._cache_size() == before
    slope = jax.jit(jax.grad(lambda f: filters.butterworth_low(RADIUS, f).sum()))(0.2)
    assert np.isfinite(slope)
    assert slope > 0
    spoilt = IMAGE.copy()
    spoilt[0, 0, 0, 0] = np.nan
    got = np.asarray(low_passed(spoilt, 0.2))
    assert np.isnan(got[0, ..., 0]).all()
    assert np.isfinite(got[1]).all()


def test_bad_parameters_are_named() -> None:
    with pytest.raises(UserError, match="cutoff 0.0 and order 2"):
        filters.butterworth_low(RADIUS, 0.0)
    with pytest.raises(UserError, match="cutoffs 0.3 and 0.1"):
        filters.butterworth_band(RADIUS, 0.3, 0.1)
    with pytest.raises(UserError, match="sigma -1"):
        filters.gaussian_blur(jnp.asarray(IMAGE), -1.0)
