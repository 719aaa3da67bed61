"""Defocus: the transfer function by closed forms and by another route, energy, geometry, noise, draws."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.ops import defocus, pupil
from medgen_jax.ops.defocus import Optics
from medgen_jax.ops.filters import cosine_frequency

AIR = Optics(0.2e-6, (0.5e-6,), 0.5)
OIL = Optics(0.08e-6, (0.52e-6,), 1.4, 1.515)
RGB = Optics(0.2e-6, (0.63e-6, 0.53e-6, 0.46e-6), 0.5)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 24, 31, 3)).astype(np.float32)

otf = jax.jit(defocus.otf, static_argnames=("shape", "optics", "z", "relative"))  # of one z
blur_otf = jax.jit(defocus.blur)
blur_from = jax.jit(defocus.blur_from, static_argnames=("optics", "z_max"))


def frequency(shape, optics):
    """In units of the cutoff."""
    return cosine_frequency(*shape).astype(np.float64) / optics.pixel * optics.wavelength[0] / (2 * optics.na)


def test_in_focus_it_is_the_diffraction_limit() -> None:
    s = frequency((40, 30), AIR)
    got = np.asarray(otf((40, 30), AIR, 0.0))
    assert got.shape == (1, 40, 30, 1) and got.dtype == np.float32
    inside = np.minimum(s, 1)
    wanted = 2 / np.pi * (np.arccos(inside) - inside * np.sqrt(1 - inside**2))
    np.testing.assert_allclose(got[0, ..., 0], wanted, atol=1e-6)
    assert wanted[-1, -1] == 0 and 0 < wanted[5, 5] < 1
    np.testing.assert_allclose(otf((40, 30), AIR, 0.0, relative=True), 1, atol=1e-6)


@pytest.mark.parametrize(("optics", "z"), [(AIR, 1.5e-6), (AIR, 12e-6), (OIL, 1e-6)])
def test_it_is_the_transform_of_the_point_spread(optics: Optics, z: float) -> None:
    """The pupil's own route: |IFFT|^2 on a plane so large that nothing wraps round; its circle is jagged there."""
    plane = pupil.pupil((512, 512), optics.pixel, optics.wavelength[0], optics.na, z, optics.index)
    wanted = np.asarray(pupil.transfer(plane))[:256, :256]
    got = np.asarray(otf((256, 256), optics, z))[0, ..., 0]
    assert np.abs(got - wanted).max() < 4e-3
    assert np.sqrt(np.mean(np.square(got - wanted.real))) < 4e-4
    assert got.min() < (-0.02 if z > 1e-5 else 1)  # strong defocus reverses contrast


def integral(s: np.ndarray, optics: Optics, z: float, points: int = 400) -> np.ndarray:
    """Overlap of two pupils summed over a fine lattice, float64; the average phase factor."""
    y, x = np.meshgrid(*2 * [(np.arange(points) + 0.5) / points * 2 - 1], indexing="ij")
    found = []
    for shift in s:
        ahead, behind = (np.hypot(x + side, y) for side in (shift, -shift))
        both = (ahead <= 1) & (behind <= 1)
        wave = optics.index / optics.wavelength[0]
        axial = [np.sqrt(wave**2 - (r[both] * optics.na / optics.wavelength[0]) ** 2) for r in (ahead, behind)]
        found.append(np.exp(2j * np.pi * z * (axial[0] - axial[1])).mean())
    return np.asarray(found)


@pytest.mark.parametrize(("optics", "z"), [(AIR, 2e-6), (AIR, 40e-6), (OIL, 4e-6)])
def test_relative_transfer_against_a_plain_sum(optics: Optics, z: float) -> None:
    s = frequency((25, 1), optics)[:, 0]
    s = s[s < 0.9]
    wanted = integral(s, optics, z)
    assert np.abs(wanted.imag).max() < 1e-9
    got = np.asarray(otf((25, 1), optics, z, relative=True))[0, : len(s), 0, 0]
    np.testing.assert_allclose(got, wanted.real, atol=1.5e-3)


def test_the_table_is_as_fine_as_it_says() -> None:
    for optics, z, within in ((AIR, 3e-6, 1e-4), (AIR, 30e-6, 5e-4), (OIL, 3e-6, 5e-4)):
        s = np.minimum(frequency((30, 8), optics), 1)
        apart, weights = defocus._overlap(s.ravel(), 60, optics.wavelength[0], optics.na, optics.index)
        wanted = (np.cos(2 * np.pi * z * apart) * weights).sum(-1).reshape(s.shape)
        got = np.asarray(otf(s.shape, optics, z, relative=True))[0, ..., 0]
        assert np.abs(got - wanted).max() < within


def test_far_from_focus_a_point_becomes_the_section_of_a_cone() -> None:
    """Light fills the sine of its angle evenly, so half of it lies within z tan(asin(NA / sqrt 2))."""
    z, side = 12e-6, 96
    point = np.zeros((1, side, side, 1), np.float32)
    point[0, side // 2, side // 2] = 1
    spread = np.asarray(blur_otf(point, otf((side, side), AIR, z)))[0, ..., 0]
    radius = np.hypot(*np.meshgrid(*2 * [np.arange(side) - side // 2]))
    order = np.argsort(radius, axis=None)
    inside = np.cumsum(spread.ravel()[order])
    half = radius.ravel()[order][np.searchsorted(inside, 0.5)]
    assert half == pytest.approx(z * np.tan(np.arcsin(0.5 / np.sqrt(2))) / AIR.pixel, rel=0.05)
    rim = defocus.blur_radius(AIR, z)
    assert rim == pytest.approx(12 / 0.2 * 0.5 / np.sqrt(0.75))
    assert inside[np.searchsorted(radius.ravel()[order], 1.15 * rim)] > 0.95
    assert spread.sum() == pytest.approx(1, rel=1e-4)
    assert spread.min() > -1e-5


def test_blur_against_its_definition_in_float64() -> None:
    """Mirror to twice the size, transform, multiply by a transfer function, transform back."""
    z = np.array([0.7e-6, -4e-6])
    transfer = np.asarray(jax.jit(lambda z: defocus.otf((24, 31), RGB, z, z_max=4e-6))(z))
    assert transfer.shape == IMAGES.shape
    got = np.asarray(blur_otf(IMAGES, transfer))
    mirrored = np.pad(IMAGES.astype(np.float64), ((0, 0), (0, 24), (0, 31), (0, 0)), mode="symmetric")
    rows, columns = (np.minimum(np.arange(2 * n), 2 * n - np.arange(2 * n)) % n for n in (24, 31))
    full = transfer.astype(np.float64)[:, rows][:, :, columns]  # at n itself a mirrored image holds nothing
    spectrum = np.fft.fft2(mirrored, axes=(1, 2)) * full
    wanted = np.fft.ifft2(spectrum, axes=(1, 2)).real[:, :24, :31]
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_light_is_kept_and_level_images_stay_level() -> None:
    out = np.asarray(blur_from(IMAGES, np.array([2e-6, -9e-6]), optics=RGB, z_max=9e-6))
    np.testing.assert_allclose(out.mean((1, 2)), IMAGES.mean((1, 2)), atol=1e-6)
    assert (out.var((1, 2)) < 0.85 * IMAGES.var((1, 2))).all()
    level = np.full_like(IMAGES, -0.3)
    blurred = blur_from(level, np.array([2e-6, -9e-6]), optics=RGB, z_max=9e-6)
    np.testing.assert_allclose(blurred, -0.3, atol=1e-6)


def test_focus_returns_the_image_and_the_sides_are_alike() -> None:
    still = np.asarray(blur_from(IMAGES, np.array([0.0, 3e-6]), optics=RGB, z_max=9e-6))
    np.testing.assert_allclose(still[0], IMAGES[0], atol=2e-6)
    assert np.abs(still[1] - IMAGES[1]).max() > 0.3
    back = np.asarray(blur_from(IMAGES, np.array([0.0, -3e-6]), optics=RGB, z_max=9e-6))
    np.testing.assert_allclose(back[1], still[1], atol=1e-6)
    far, near = (np.asarray(otf((24, 31), AIR, z)) for z in (0.4e-6, 0.2e-6))
    sharp = np.asarray(otf((24, 31), AIR, 0.0))
    loss = (sharp - far)[sharp > 0.2][1:] / (sharp - near)[sharp > 0.2][1:]  # even in z: losses go with its square
    np.testing.assert_allclose(loss, 4, rtol=0.15)


def test_turned_images_blur_alike() -> None:
    z = np.array([3e-6, -1e-6])
    plain, turned = (np.asarray(blur_from(x, z, optics=RGB, z_max=9e-6)) for x in (IMAGES, np.rot90(IMAGES, 2, (1, 2))))
    np.testing.assert_allclose(np.rot90(plain, 2, (1, 2)), turned, atol=2e-6)
    wide, high = (np.asarray(otf(shape, AIR, 3e-6)) for shape in ((24, 31), (31, 24)))
    np.testing.assert_allclose(wide, high.swapaxes(1, 2), atol=1e-6)


def test_each_colour_has_its_own_wavelength() -> None:
    planes = np.asarray(otf((30, 30), RGB, 2e-6))
    for i, wavelength in enumerate(RGB.wavelength):
        alone = otf((30, 30), Optics(RGB.pixel, (wavelength,), RGB.na), 2e-6)
        np.testing.assert_allclose(planes[..., i], np.asarray(alone)[..., 0], atol=2e-4)
    assert (planes[0, 0, 20] == np.sort(planes[0, 0, 20])).all()  # red is cut off first
    one = jax.eval_shape(functools.partial(defocus.blur_from, z=0.0, optics=AIR), IMAGES)
    assert one.shape == IMAGES.shape


def test_draws_are_uniform_on_both_sides_and_follow_the_key() -> None:
    z = np.asarray(defocus.random_z(jax.random.key(3), 4000, (1e-6, 3e-6)))
    assert np.abs(z).min() >= 1e-6 and np.abs(z).max() <= 3e-6
    assert np.abs(z).mean() == pytest.approx(2e-6, rel=0.02)
    assert (z > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(np.abs(z), z > 0)[0, 1]) < 0.05

    draw = jax.jit(lambda key: defocus.random_defocus(key, IMAGES, RGB, (1e-6, 9e-6)))
    (first, z), (again, _), (other, _) = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05
    np.testing.assert_allclose(first, blur_from(IMAGES, z, optics=RGB, z_max=9e-6), atol=2e-6)


def test_a_camera_counts_photons() -> None:
    images = jnp.stack([jnp.full((40, 40, 1), level) for level in (-1.5, -1.0, 0.0, 1.0)])
    full, read = 500.0, 6.0
    noisy = np.asarray(jax.jit(lambda x: defocus.camera_noise(jax.random.key(0), x, full, read))(images))
    np.testing.assert_allclose(noisy.mean((1, 2, 3)), [-1, -1, 0, 1], atol=0.01)
    electrons = np.array([0, 0, 250, 500])
    np.testing.assert_allclose(noisy.var((1, 2, 3)) * 250**2, electrons + 36, rtol=0.15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: defocus.otf((8, 8), AIR, float("nan")), "z = nan: must be finite"),
        (lambda: defocus.otf((8, 8), AIR, 1e-3), "wavefront error of .* at most 16 .* stay below"),
        (lambda: jax.eval_shape(lambda z: defocus.otf((8, 8), AIR, z), 1.0), "z is traced"),
        (lambda: Optics(2e-7, (5e-7, 6e-7), 0.5), "wavelength: 2 values"),
        (lambda: defocus.blur_from(IMAGES[..., :1], 0.0, RGB), "images of 1 channel and 3 wavelengths"),
        (lambda: defocus.random_z(jax.random.key(0), 1, (2e-6, 1e-6)), "the smaller first"),
        (lambda: defocus.random_z(jax.random.key(0), 1, (-2e-6, 1e-6)), "0 or more"),
        (lambda: defocus.camera_noise(jax.random.key(0), IMAGES, 0.0), "full_well = 0.0"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
