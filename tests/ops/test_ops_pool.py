"""Pooling against its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.ops.pool import max_pool, mean_pool, pool


def windows(x: np.ndarray, window: int, stride: int) -> np.ndarray:
    """All whole windows, (n, h', w', c, window, window)."""
    return np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(1, 2))[:, ::stride, ::stride]


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 1), (1, 3)])
@pytest.mark.parametrize("shape", [(2, 7, 8, 3), (1, 3, 3, 1), (1, 8, 5, 2)])
def test_pools_combine_whole_windows(shape: tuple[int, ...], window: int, stride: int) -> None:
    x = np.random.default_rng(1).integers(-50, 50, shape).astype(np.float32)
    wanted = windows(x, window, stride)
    np.testing.assert_array_equal(max_pool(x, window, stride), wanted.max((-1, -2)))
    np.testing.assert_array_equal(pool(x, window, stride, jnp.add), wanted.sum((-1, -2)))
    np.testing.assert_allclose(mean_pool(x, window, stride), wanted.mean((-1, -2)), rtol=1e-6, atol=1e-5)


def test_means_of_whole_squares_halve_an_image_and_keep_its_dtype() -> None:
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(mean_pool(x)[0, :, :, 0], [[2.5, 4.5]])
    assert mean_pool(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_maximum_passes_its_gradient_to_the_largest_pixel() -> None:
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    slope = jax.grad(lambda x: max_pool(x, 3).sum())(x)
    np.testing.assert_array_equal(slope.reshape(-1), [0, 0, 0, 0, 0, 0, 0, 0, 1])
