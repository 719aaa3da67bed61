"""Spectra: noise, gratings, power laws and blurs whose spectra are known; sets, shards, a real X-ray."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import cut

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import spectra
from medgen_jax.ops.filters import butterworth_low, filter_image, radial_frequency

SHAPE = (4, 64, 72, 1)
ONES = np.ones(4, np.float32)
accumulate = jax.jit(spectra.accumulate)
rings_of = jax.jit(spectra.radial_power_spectrum)
bands_of = jax.jit(spectra.band_power)


def noise(seed: int, sigma: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, SHAPE).astype(np.float32)


def measured(images: np.ndarray, mask: np.ndarray = ONES) -> jax.Array:
    return accumulate(spectra.init(*SHAPE[1:3]), images, mask)


def power_law(seed: int, exponent: float) -> np.ndarray:
    """Images whose power falls as a power of the frequency."""
    frequency = radial_frequency(*SHAPE[1:3]).astype(np.float64)
    gain = np.where(frequency > 0, frequency, 1) ** (exponent / 2)
    spectrum = np.fft.rfft2(noise(seed)[..., 0]) * gain
    return np.fft.irfft2(spectrum, SHAPE[1:3])[..., None].astype(np.float32) * 0.05


def test_a_point_has_a_level_spectrum() -> None:
    """One pixel of height a under window weight w: power (a w)^2 over the window's energy, once the mean is gone."""
    x = np.zeros(SHAPE, np.float32)
    x[:, 30, 33] = 0.7
    row, column = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in SHAPE[1:3])
    wanted = (0.7 * row[30] * column[33]) ** 2 / np.square(np.outer(row, column)).sum()
    np.testing.assert_allclose(np.asarray(rings_of(x))[:, 3:], wanted, rtol=1e-3)


def test_white_noise_is_level_at_its_variance() -> None:
    x = noise(0)
    assert np.asarray(rings_of(x)).mean(0)[4:].mean() == pytest.approx(0.01, rel=0.05)
    share = spectra.describe(measured(x))["high_share"]
    assert share == pytest.approx(1 - np.pi / 16, abs=0.02)  # the plane outside a circle of radius a quarter
    assert spectra.describe(measured(x))["slope"] == pytest.approx(0, abs=0.1)


def test_bands_part_the_variance_under_the_window() -> None:
    x = noise(1)
    row, column = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in SHAPE[1:3])
    window = np.outer(row, column)
    image = x[..., 0].astype(np.float64)
    centred = image - (image * window).sum((1, 2), keepdims=True) / window.sum()
    wanted = (centred * window) ** 2
    np.testing.assert_allclose(np.asarray(bands_of(x)).sum(-1), wanted.sum((1, 2)) / (window**2).sum(), rtol=1e-5)


def test_a_grating_stands_in_its_own_ring_and_band() -> None:
    """Twelve waves over 64 rows: ring 12 of those of width 1/64, band 1/8 to 1/4."""
    wave = 0.5 * np.cos(2 * np.pi * 12 * np.arange(64) / 64)
    x = np.broadcast_to(wave[None, :, None, None], SHAPE).astype(np.float32)
    spectrum = np.asarray(rings_of(x))[0]
    assert spectra.ring_frequencies(64, 72)[np.argmax(spectrum)] == 12 / 64
    assert spectrum[11] > 1e4 * spectrum[20]
    bands = np.asarray(bands_of(x))[0]
    assert bands[3] > 0.99 * bands.sum()
    assert bands[3] == pytest.approx(0.5**2 / 2, rel=1e-2)


@pytest.mark.parametrize("exponent", [-2.0, -3.0])
def test_slope_of_a_power_law(exponent: float) -> None:
    frequencies = spectra.ring_frequencies(256, 256)
    assert spectra.spectral_slope(frequencies**exponent, frequencies) == pytest.approx(exponent, abs=1e-9)
    got, level = (spectra.describe(measured(power_law(2, e)))["slope"] for e in (exponent, 0.0))
    assert got - level == pytest.approx(exponent, abs=0.15)  # of the same noise


def test_a_filter_shows_its_gain_in_decibels() -> None:
    """The set against itself filtered: distance and ratios follow from the squared gain of each ring."""
    x = noise(3)
    low = jax.jit(lambda v: filter_image(v, functools.partial(butterworth_low, cutoff=0.2)))(x)
    got = spectra.compute(measured(x), measured(low))
    gain = 20 * np.log10(np.asarray(butterworth_low(spectra.ring_frequencies(64, 72), 0.2)))
    assert got["spectral_distance"] == pytest.approx(np.sqrt(np.mean(gain**2)), rel=0.05)
    assert got["band_ratio_0"] == pytest.approx(0, abs=0.1)
    assert got["high_ratio"] == got["band_ratio_4"] < -6
    assert got["high_ratio"] < got["low_ratio"] < 0
    assert got["slope_fake"] < got["slope_real"] - 0.5
    assert got["high_share_fake"] < got["high_share_real"]
    back = spectra.compute(measured(low), measured(x))
    assert back["high_ratio"] == pytest.approx(-got["high_ratio"], rel=1e-9)
    assert back["spectral_distance"] == pytest.approx(got["spectral_distance"], rel=1e-9)


def test_a_set_against_itself_and_at_twice_the_contrast() -> None:
    x = noise(4)
    same = spectra.compute(measured(x), measured(x))
    assert same["spectral_distance"] == same["low_ratio"] == same["high_ratio"] == 0
    double = spectra.compute(measured(x), measured(2 * x))
    for name in ("spectral_distance", "low_ratio", "high_ratio", "band_ratio_2"):
        assert double[name] == pytest.approx(20 * np.log10(2), abs=1e-4), name


def test_brightness_and_constant_images() -> None:
    x = noise(5)
    np.testing.assert_allclose(rings_of(x + np.float32(0.5)), rings_of(x), rtol=2e-3)
    flat = measured(np.full(SHAPE, 0.7, np.float32))
    assert spectra.describe(flat) == {"slope": 0, "high_share": pytest.approx(0, abs=1e-2)}
    assert all(np.isfinite(v) for v in spectra.compute(measured(x), flat).values())


def test_channels_are_averaged_and_integers_scaled() -> None:
    rng = np.random.default_rng(6)
    levels = rng.integers(0, 65536, (1, 16, 17, 2), dtype=np.uint16)
    scaled = (levels / 32767.5 - 1).astype(np.float32)
    both = rings_of(scaled)
    np.testing.assert_allclose(rings_of(levels), both, rtol=1e-4)
    parts = [np.asarray(rings_of(scaled[..., i : i + 1])) for i in (0, 1)]
    np.testing.assert_allclose(both, (parts[0] + parts[1]) / 2, rtol=1e-4)


def test_padding_shards_and_nan() -> None:
    x = np.concatenate([noise(7), noise(8), noise(9), noise(10)])
    batches = [x[i : i + 4] for i in range(0, 16, 4)]
    shards = [measured(batch) for batch in batches]
    stream = spectra.init(*SHAPE[1:3])
    for batch in batches:
        stream = accumulate(stream, batch, ONES)
    merged = functools.reduce(spectra.merge, reversed(shards))
    assert spectra.describe(merged) == pytest.approx(spectra.describe(stream), rel=1e-12)
    np.testing.assert_allclose(spectra.mean_spectrum(merged).rings, spectra.mean_spectrum(stream).rings, rtol=1e-12)
    assert spectra.mean_spectrum(merged).images == 16
    spoilt = batches[0].copy()
    spoilt[3] = np.nan
    kept = spectra.describe(measured(spoilt, np.float32([1, 1, 1, 0])))
    assert np.isfinite(kept["slope"])
    assert np.isnan(spectra.describe(measured(spoilt))["high_share"])


def test_bad_input_is_named() -> None:
    acc = spectra.init(32, 32)
    with pytest.raises(UserError, match="no image was added"):
        spectra.describe(acc)
    with pytest.raises(UserError, match="32x40 pixels do not fit"):
        jax.eval_shape(spectra.accumulate, spectra.init(40, 40), jnp.zeros((1, 32, 40, 1)), jnp.ones(1))
    with pytest.raises(UserError, match="15x40 pixels; at least 16"):
        jax.eval_shape(spectra.power_spectrum, jnp.zeros((1, 15, 40, 1)))
    with pytest.raises(UserError, match="must ascend"):
        jax.eval_shape(lambda x: spectra.band_power(x, (0.2, 0.1)), jnp.zeros((1, 16, 16, 1)))
    odd = spectra.init(17, 17).at[:2, 0].set(jnp.asarray([2.0, 33.0]))  # one image of 16 pixels, one of 17
    with pytest.raises(UserError, match="images of different sizes were merged"):
        spectra.describe(odd)
    with pytest.raises(UserError, match="real and fake images differ in size"):
        spectra.compute(measured(noise(11)), spectra.init(64, 72)[:-2].at[:2, 0].set(jnp.asarray([1.0, 60.0])))


def test_real_xray_loses_its_fine_structure_to_a_low_pass(shared) -> None:
    image = cut(shared, "xray_normal")[None].astype(np.float32) / 127.5 - 1

    @jax.jit
    def both(x):
        low = filter_image(x, functools.partial(butterworth_low, cutoff=0.1))
        one = jnp.ones(1)
        return [spectra.accumulate(spectra.init(256, 256), v, one) for v in (x, low)]

    got = spectra.compute(*both(image))
    assert -4 < got["slope_real"] < -2
    assert got["slope_fake"] < got["slope_real"] - 1
    assert got["high_ratio"] < -15
    assert got["low_ratio"] == pytest.approx(0, abs=0.2)
