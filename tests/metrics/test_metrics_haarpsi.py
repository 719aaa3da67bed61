"""HaarPSI: wavelets by hand, its piq counterpart on real images, images without structure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import column, pairs

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.haarpsi import haar_psi, wavelets
from medgen_jax.ops.scale import to_unit

index = jax.jit(haar_psi)


def test_wavelets_of_a_single_pixel_are_their_own_mirror_image() -> None:
    """Every wavelet that covers the pixel answers 1 / n: n x n places, from n/2 pixels before it to n/2 - 1 after."""
    dot = np.zeros((1, 24, 24), np.float32)
    dot[0, 12, 12] = 1
    for scale, (down, across) in enumerate(jax.jit(wavelets)(dot), 1):
        n = 2**scale
        wanted = np.zeros((24, 24))
        covered = slice(12 - n // 2, 12 + n // 2)
        wanted[covered, covered] = 1 / n
        np.testing.assert_allclose(down[0], wanted, atol=1e-7)
        np.testing.assert_allclose(across[0], wanted, atol=1e-7)


def test_wavelets_answer_to_their_own_direction_alone() -> None:
    """A step of 1 between rows: n / 2 rows of n pixels on one side, over n, where the wavelet straddles it."""
    step = np.zeros((1, 32, 32), np.float32)
    step[0, 16:] = 1
    for scale, (down, across) in enumerate(jax.jit(wavelets)(step), 1):
        n = 2**scale
        inside = slice(8, 24)
        assert float(np.max(down[0][inside, inside])) == pytest.approx(n / 2)
        assert float(np.max(across[0][inside, inside])) == 0


def test_equal_and_featureless_images_score_one() -> None:
    rng = np.random.default_rng(0)
    black = np.full((1, 17, 20, 1), -1.0, np.float32)
    x = np.concatenate([rng.uniform(-1, 1, black.shape).astype(np.float32), black])
    np.testing.assert_allclose(index(x, x), 1, atol=1e-5)


def test_it_is_symmetric_falls_with_noise_and_shows_nan() -> None:
    rng = np.random.default_rng(1)
    x = np.repeat(rng.uniform(-1, 1, (1, 17, 20, 1)).astype(np.float32), 2, axis=0)
    noise = rng.normal(0, 1, x.shape).astype(np.float32) * np.float32([0.05, 0.5])[:, None, None, None]
    there, back = index(x, x + noise), index(x + noise, x)
    np.testing.assert_allclose(there, back, rtol=2e-5)
    assert 0 < float(there[1]) < float(there[0]) - 0.1 < 0.9
    x[0, 3, 3] = np.nan
    got = np.asarray(index(x, x))
    assert np.isnan(got[0])
    assert got[1] == pytest.approx(1, abs=1e-5)


def test_bad_sizes_and_channels_are_named() -> None:
    for shape, message in (((1, 15, 20, 1), "15x20 pixels are smaller than 16"), ((1, 20, 20, 2), "2 channels")):
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        with pytest.raises(UserError, match=message):
            jax.eval_shape(haar_psi, image, image)


@pytest.mark.parametrize("kind", ["xray", "he"])
def test_real_images_as_piq_sees_them(shared, kind: str) -> None:
    first, second, rows = pairs(shared, kind)
    got = index(to_unit(first), to_unit(second))
    np.testing.assert_allclose(got, column(rows, "piq_haarpsi"), atol=1e-4)
