"""Focus measures: hand-computed images, what changes them and what does not, real stacks through focus."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import read_image
from medgen_jax.metrics import focus, spectra

IMAGE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 24, 30, 1)).astype(np.float32)
measured = jax.jit(lambda images: {name: measure(images) for name, measure in focus.MEASURES.items()})


def values(images) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in measured(images).items()}


SMALL = [name for name in focus.MEASURES if name not in ("high_frequency_share", "power_slope")]


@jax.jit
def small(images):
    return {name: focus.MEASURES[name](images) for name in SMALL}


def hand_measured(image) -> dict[str, float]:
    """Measures of one image that need no spectrum."""
    return {name: float(value[0]) for name, value in small(image).items()}


def test_single_points_and_ramps_by_hand() -> None:
    point = np.full((1, 5, 5, 1), -1, np.float32)
    point[0, 2, 2] = 1  # intensity 1 on 0
    # Laplacian of the nine inner pixels: -4 at the point, 1 at its four neighbours.
    got = hand_measured(point)
    assert got["laplacian_variance"] == pytest.approx(20 / 9)
    # Sobel over 8: one quarter and one eighth at distance 1 and sqrt 2, in both directions.
    assert got["tenengrad"] == pytest.approx((4 / 16 + 4 * 2 / 64) / 9)
    assert got["brenner"] == pytest.approx(2 * 2 / 15)
    assert got["normalised_variance"] == pytest.approx((1 / 25 - 1 / 625) / (1 / 25))

    ramp = np.broadcast_to(np.linspace(-1, 1, 21, dtype=np.float32)[None, None, :, None], (1, 9, 21, 1))
    got = hand_measured(ramp)
    assert got["laplacian_variance"] == pytest.approx(0, abs=1e-12)
    assert got["tenengrad"] == pytest.approx(0.05**2, rel=1e-4)
    assert got["brenner"] == pytest.approx(0.1**2, rel=1e-4)
    assert got["relative_gradient"] == pytest.approx(0.05**2 / (0.05**2 * (21**2 - 1) / 12), rel=1e-4)


def test_brightness_and_contrast_as_the_table_says() -> None:
    plain, brighter, lower = values(IMAGE), values(IMAGE + 0.4), values((IMAGE + 1) / 2 - 1)  # k = 1/2
    same = ("relative_gradient", "high_frequency_share", "power_slope")
    square = ("laplacian_variance", "tenengrad", "brenner")
    for name in same:
        np.testing.assert_allclose(lower[name], plain[name], rtol=1e-4, atol=1e-5)
    for name in square:
        np.testing.assert_allclose(lower[name], plain[name] / 4, rtol=1e-4)
    for name in (*same, *square):
        np.testing.assert_allclose(brighter[name], plain[name], rtol=1e-3, atol=1e-4)
    name = "normalised_variance"
    np.testing.assert_allclose(lower[name], plain[name] / 2, rtol=1e-4)
    assert (brighter[name] < 0.8 * plain[name]).all()


def test_the_share_above_a_frequency_is_that_of_gratings() -> None:
    column = np.arange(64)
    coarse, fine = (a * np.cos(2 * np.pi * k * column / 64) for a, k in ((0.4, 3), (0.2, 16)))
    image = np.broadcast_to((coarse + fine)[None, None, :, None], (1, 64, 64, 1)).astype(np.float32)
    both = jax.jit(lambda x: [focus.high_frequency_share(x, cut) for cut in (0.125, 0.3)])
    above, none = (float(share[0]) for share in both(image))
    assert above == pytest.approx(0.2**2 / (0.4**2 + 0.2**2), rel=2e-3)
    assert none < 1e-3


def test_the_slope_is_that_of_the_spectra() -> None:
    rings = np.asarray(jax.jit(spectra.radial_power_spectrum)(IMAGE))
    wanted = [spectra.spectral_slope(ring, spectra.ring_frequencies(24, 30)) for ring in rings]
    np.testing.assert_allclose(values(IMAGE)["power_slope"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [-1.0, 0.3, 1.0])
def test_constant_images_are_finite(level: float) -> None:
    rounding = np.float32(1e-6) * IMAGE  # far below a step of 16 bits
    for image in (np.full_like(IMAGE, level), level + rounding):
        for name, value in values(image).items():
            np.testing.assert_allclose(value, 0, atol=1e-4, err_msg=name)


def test_channels_average_and_integers_are_scaled() -> None:
    levels = np.random.default_rng(1).integers(0, 65536, (2, 24, 30, 1), dtype=np.uint16)
    floats = (levels / 32767.5 - 1).astype(np.float32)
    for name, value in values(levels).items():
        np.testing.assert_allclose(value, values(floats)[name], rtol=1e-3, atol=1e-5, err_msg=name)
    pair = np.concatenate([IMAGE[:1], IMAGE[1:]], axis=-1)
    for name, got in small(pair).items():
        np.testing.assert_allclose(got, [values(IMAGE)[name].mean()], rtol=1e-4, err_msg=name)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"\(2, 24, 30\); they must be \(b, h, w, c\)"):
        focus.tenengrad(IMAGE[..., 0])
    with pytest.raises(UserError, match="3 pixels or more"):
        focus.brenner(IMAGE[:, :2])
    with pytest.raises(UserError, match="cut 0.8"):
        focus.high_frequency_share(IMAGE, 0.8)


def test_a_real_stack_is_sharpest_at_its_focus(shared) -> None:
    """Mitochondria, planes 0.2 um apart, focus said to be at plane 4: within one plane, and falling on both sides."""
    files = sorted((shared / "data/focus/stacks/dfnn_mitochondria").glob("*.png"))
    assert len(files) == 8 and "dz+0.00um" in files[4].name
    stack = values(np.stack([read_image(file)[200:600, 100:420] for file in files]))
    for name in ("tenengrad", "brenner", "normalised_variance", "relative_gradient", "high_frequency_share"):
        best = int(stack[name].argmax())
        assert best in (3, 4, 5), name
        steps = np.diff(stack[name])
        assert (steps[:best] > 0).all() and (steps[best:] < 0).all(), name
    assert stack["relative_gradient"][0] < 0.65 * stack["relative_gradient"].max()
