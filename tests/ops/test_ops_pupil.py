"""The pupil: size, phase, sign, what it does to a wave, and when pixels are too coarse for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.ops import pupil as optics

PIXEL, WAVELENGTH, NA = 0.2e-6, 0.5e-6, 0.6


def test_it_is_one_inside_the_aperture_and_zero_outside() -> None:
    plane = np.asarray(optics.pupil((50, 40), PIXEL, WAVELENGTH, NA))
    assert plane.dtype == np.complex64
    rows, columns = np.fft.fftfreq(50, PIXEL), np.fft.fftfreq(40, PIXEL)
    inside = rows[:, None] ** 2 + columns[None] ** 2 <= (NA / WAVELENGTH) ** 2
    np.testing.assert_array_equal(plane, inside.astype(np.complex64))
    # Cells of 1 / (50 p) by 1 / (40 p): the circle covers pi (NA / lambda)^2 over that.
    assert inside.sum() == pytest.approx(np.pi * (NA / WAVELENGTH * PIXEL) ** 2 * 50 * 40, rel=0.03)


def test_phase_by_formula_for_each_defocus_of_a_batch() -> None:
    z = np.array([-3e-6, 0, 80e-6])
    got = np.asarray(jax.jit(lambda z: optics.pupil((16, 18), PIXEL, WAVELENGTH, NA, z, 1.33))(z))
    f = np.hypot(np.fft.fftfreq(16, PIXEL)[:, None], np.fft.fftfreq(18, PIXEL)[None])
    wave = 1.33 / WAVELENGTH
    axial = np.sqrt(np.maximum(wave**2 - f**2, 0)) - wave
    wanted = np.exp(2j * np.pi * axial * z[:, None, None]) * (f <= NA / WAVELENGTH)
    np.testing.assert_allclose(got, wanted, atol=3e-4)  # float32 of phases up to 100


def test_waves_that_do_not_propagate_have_no_phase_to_lose() -> None:
    squares = np.array([0.0, 0.6e6, 1e6, 3e6]) ** 2
    np.testing.assert_allclose(optics.axial_frequency(squares, 1e-6), [0, -0.2e6, -1e6, -1e6], rtol=1e-12)
    tiny = optics.axial_frequency(np.array([1.0]), 1e-6)  # the difference of the roots would be 0 or noise
    np.testing.assert_allclose(tiny, -0.5e-6, rtol=1e-9)


def test_axial_frequencies_may_be_traced_and_differentiated() -> None:
    """d/df^2 of sqrt((n / lambda)^2 - f^2) is -1 / 2 over that root; waves that do not propagate have none."""
    squares = np.array([0.0, 0.6e6, 1e6, 3e6]) ** 2
    found = jax.jit(optics.axial_frequency, static_argnums=(1, 2))(squares, 1e-6, 1.0)
    np.testing.assert_allclose(found, optics.axial_frequency(squares, 1e-6), rtol=1e-6)
    slopes = jax.vmap(jax.grad(lambda square: optics.axial_frequency(square, 1e-6)))(jnp.asarray(squares, jnp.float32))
    np.testing.assert_allclose(slopes, [-0.5e-6, -0.625e-6, 0, 0], rtol=1e-6)


def test_positive_defocus_brings_a_converging_wave_to_its_point() -> None:
    """exp(-i pi r^2 / (lambda F)) converges: its phase falls off the axis, where the way to the point is longer."""
    focal, shape = 20e-6, (96, 96)
    y, x = np.meshgrid(*(PIXEL * (np.arange(n) - n // 2) for n in shape), indexing="ij")
    aperture = np.exp(-(x**2 + y**2) / (2 * (2.5e-6) ** 2))
    field = aperture * np.exp(-1j * np.pi * (x**2 + y**2) / (WAVELENGTH * focal))

    def peak(z: float) -> float:
        passed = np.fft.fft2(field) * np.asarray(optics.pupil(shape, PIXEL, WAVELENGTH, NA, z))
        return float((np.abs(np.fft.ifft2(passed)) ** 2).max())

    assert peak(focal) > 4 * peak(0) > 8 * peak(-focal)


def test_a_point_spreads_with_sum_one_and_transfers_one_at_frequency_zero() -> None:
    plane = optics.pupil((32, 32), PIXEL, WAVELENGTH, NA, jnp.array([0, 2e-6]))
    spread = np.asarray(optics.point_spread(plane))
    np.testing.assert_allclose(spread.sum((1, 2)), 1, rtol=1e-5)
    assert spread[0, 0, 0] > 2 * spread[1, 0, 0]
    transfer = np.asarray(optics.transfer(plane))
    assert transfer.shape == (2, 32, 17)
    np.testing.assert_allclose(transfer[:, 0, 0], 1, rtol=1e-5)


def test_an_aberration_with_a_side_makes_the_transfer_complex() -> None:
    plane = optics.pupil((32, 32), PIXEL, WAVELENGTH, NA)
    coma = jnp.asarray(1e-6 * np.fft.fftfreq(32, PIXEL)[:, None] ** 3 * 1e-12, jnp.float32)
    bent = np.asarray(optics.transfer(plane * jnp.exp(1j * 2e6 * coma)))
    assert np.abs(bent.imag).max() > 0.02
    assert np.abs(np.asarray(optics.transfer(plane)).imag).max() < 1e-6


def test_sampling_is_judged_for_field_and_intensity() -> None:
    limit = WAVELENGTH / (4 * NA)
    assert optics.sampling_factors(limit, WAVELENGTH, NA) == pytest.approx((2, 1))
    assert optics.sampling_faults(limit, WAVELENGTH, NA) == ()
    (fault,) = optics.sampling_faults(1.5 * limit, WAVELENGTH, NA)
    assert "incoherent" in fault and "1.50 times" in fault and "0.208 um" in fault
    assert len(optics.sampling_faults(2.5 * limit, WAVELENGTH, NA)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.2, WAVELENGTH, NA), "pixel = 0.2: must be in metres"),
        ((PIXEL, 550, NA), "wavelength = 550"),
        ((PIXEL, float("nan"), NA), "wavelength = nan"),
        ((PIXEL, WAVELENGTH, 1.1), "na = 1.1: must be above 0 and not above the refractive index 1"),
        ((PIXEL, WAVELENGTH, 0.0), "na = 0.0"),
        ((PIXEL, WAVELENGTH, 0.5, 0.0, 0.9), "index = 0.9"),
    ],
)
def test_impossible_optics_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        optics.pupil((8, 8), *arguments)
