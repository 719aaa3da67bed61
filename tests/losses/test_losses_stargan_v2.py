"""Loss terms of StarGAN v2 against their closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.losses import stargan_v2 as losses


def test_discriminator_loss_is_the_whole_sum() -> None:
    """-log sigmoid of real, -log (1 - sigmoid) of fake logits, each averaged over its batch."""
    real, fake = jnp.array([0.0, 2.0]), jnp.array([1.0])
    wanted = (math.log(2) + math.log(1 + math.exp(-2))) / 2 + math.log(1 + math.e)
    assert losses.discriminator_loss(real, fake) == pytest.approx(wanted, rel=1e-6)


def test_r1_of_a_quadratic() -> None:
    """f(x) = a |x|^2 / 2 has slope a x: the penalty is a^2 |x|^2 / 2, its slope by a is a |x|^2, averaged."""
    x = jnp.arange(12.0).reshape(2, 2, 3, 1) / 4
    squares = np.sum(np.square(np.asarray(x, np.float64)), axis=(1, 2, 3))

    def penalty(a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return losses.r1(lambda x: a * jnp.sum(jnp.square(x), axis=(1, 2, 3)) / 2, x)

    (value, logits), slope = jax.value_and_grad(penalty, has_aux=True)(jnp.float32(3))
    assert value == pytest.approx(4.5 * squares.mean(), rel=1e-6)
    assert slope == pytest.approx(3 * squares.mean(), rel=1e-6)
    np.testing.assert_allclose(logits, 1.5 * squares, rtol=1e-6)


def test_r1_of_a_constant_judge_is_zero() -> None:
    value, _ = losses.r1(lambda x: 0 * x[:, 0, 0, 0] + 5, jnp.ones((3, 4, 4, 1), jnp.bfloat16))
    assert value == 0 and value.dtype == jnp.float32


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
