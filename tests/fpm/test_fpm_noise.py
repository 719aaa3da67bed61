"""Cameras: the statistics of their noise, and what they cannot record."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.noise import Camera, expose, saturated

KEY = jax.random.key(3)


def test_shot_and_read_noise_have_the_variance_of_their_formula() -> None:
    light = jnp.concatenate([jnp.full(20000, 0.5), jnp.full(20000, 2.0), jnp.zeros(20000)])
    camera = Camera(photons=100.0, read_noise=3.0, gaussian=0.04, gain=10.0, dark=7.0)
    dim, bright, none = np.asarray(expose(light, camera, KEY), np.float64).reshape(3, -1)
    for counts, mean in ((dim, 0.5), (bright, 2.0), (none, 0.0)):
        variance = 100 * (mean / 100 + 0.03**2 + 0.04**2)
        assert counts.mean() == pytest.approx(10 * mean + 7, abs=5 * np.sqrt(variance / 20000))
        assert counts.var() == pytest.approx(variance, rel=0.05)
    assert np.corrcoef(dim, bright)[0, 1] == pytest.approx(0, abs=0.03)


def test_counts_saturate_above_the_dark_level_and_are_whole() -> None:
    camera = Camera(gain=100.0, dark=2.2, saturation=255.0, whole=True)
    counts = expose(jnp.array([0.0, 0.5, 1.26, 3.0, 90.0]), camera)
    np.testing.assert_array_equal(counts, [2, 52, 128, 255, 255])
    np.testing.assert_array_equal(saturated(counts, camera), [False, False, False, True, True])
    assert not saturated(counts, Camera()).any()
    np.testing.assert_array_equal(expose(counts, Camera()), counts)
    assert expose(jnp.full(2000, 1e-3), Camera(gaussian=1.0, whole=True), KEY).min() == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"photons": 0.0}, "camera.photons = 0.0"),
        ({"read_noise": 2.0}, "camera.read_noise is in electrons and needs camera.photons"),
        ({"gaussian": -1e-3}, "camera.gaussian = -0.001: must not be negative"),
        ({"gain": 0.0}, "camera.gain = 0.0"),
        ({"dark": 10.0, "saturation": 9.0}, "camera.saturation = 9.0: must be above the dark level 10"),
    ],
)
def test_impossible_cameras_are_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Camera(**fields)


def test_noise_needs_a_key() -> None:
    with pytest.raises(UserError, match="needs a key"):
        expose(jnp.ones(3), Camera(gaussian=0.1))
