"""Loss terms of StarGAN v2 against their closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.losses import stargan_v2 as losses


def test_absolute_differences() -> None:
    a, b = jnp.array([[1.0, -2.0]]), jnp.array([[0.5, 2.0]])
    assert losses.style_reconstruction(a, b) == pytest.approx(2.25)
    x, y = jnp.full((1, 2, 2, 1), 0.25), jnp.full((1, 2, 2, 1), -0.5)
    assert losses.cycle(x, y) == pytest.approx(0.75)
    assert losses.diversity(x, y) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="shapes"):
        losses.style_reconstruction(a, b[0])


def test_style_and_cycle_pull_both_sides_diversity_one() -> None:
    x, y = jnp.full((1, 2, 2, 1), 0.25), jnp.full((1, 2, 2, 1), -0.5)
    for term, second in ((losses.cycle, -0.25), (losses.style_reconstruction, -0.25), (losses.diversity, 0.0)):
        slopes = jax.grad(term, argnums=(0, 1))(x, y)
        np.testing.assert_allclose(slopes[0], np.full(x.shape, 0.25))
        np.testing.assert_allclose(slopes[1], np.full(x.shape, second))


def test_diversity_moves_the_first_images_only() -> None:
    a, b = jnp.array([1.0, -2.0, 0.5, 0.0]).reshape(1, 2, 2, 1), jnp.array([0.0, 2.0, 0.5, 3.0]).reshape(1, 2, 2, 1)
    assert float(losses.diversity(a, b)) == (1 + 4 + 0 + 3) / 4
    first, second = jax.grad(losses.diversity, argnums=(0, 1))(a, b)
    np.testing.assert_array_equal(first.ravel(), [0.25, -0.25, 0, -0.25])
    np.testing.assert_array_equal(second, 0)


def test_diversity_weight_falls_to_zero_and_stays() -> None:
    """As a weight of 2 from which 2 / 100 are taken after every step."""
    weight, wanted = 2.0, []
    for _ in range(101):
        wanted.append(weight)
        weight = max(0.0, weight - 2 / 100)
    got = [losses.diversity_weight(step, 2.0, 100) for step in (0, 1, 50, 99, 100)]
    np.testing.assert_allclose(got, [wanted[step] for step in (0, 1, 50, 99, 100)], atol=1e-6)
    assert jax.jit(lambda step: losses.diversity_weight(step, 2.0, 100))(jnp.int32(1000)) == 0
    with pytest.raises(ValueError, match="0 steps"):
        losses.diversity_weight(0, 2.0, 0)
