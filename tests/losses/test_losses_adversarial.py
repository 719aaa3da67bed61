"""Adversarial losses against their formulas, at zero, at one and far out; R1 of functions with known slopes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.losses.adversarial import discriminator_loss, gan_loss, generator_loss, r1_penalty

LOGITS = jnp.array([[0.0, 1.0], [-2.0, 3.0]])


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def softplus(v: float) -> float:
    return math.log1p(math.exp(v))


def test_vanilla_is_the_mean_cross_entropy() -> None:
    values = [0.0, 1.0, -2.0, 3.0]
    real = -sum(math.log(sigmoid(v)) for v in values) / 4
    fake = -sum(math.log(1 - sigmoid(v)) for v in values) / 4
    assert gan_loss(LOGITS, True) == pytest.approx(real, rel=1e-6)
    assert gan_loss(LOGITS, False) == pytest.approx(fake, rel=1e-6)
    assert gan_loss(jnp.zeros((2, 3)), True) == pytest.approx(math.log(2), rel=1e-6)
    gradient = jax.grad(gan_loss)(LOGITS, True)
    np.testing.assert_allclose(gradient.ravel(), [(sigmoid(v) - 1) / 4 for v in values], rtol=1e-5)


def test_vanilla_is_logistic() -> None:
    """-log sigmoid of real, -log (1 - sigmoid) of fake logits: softplus, each averaged over its batch."""
    real, fake = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    assert float(gan_loss(real, True)) == pytest.approx((softplus(-1) + softplus(2)) / 2, rel=1e-6)
    assert float(gan_loss(fake, False)) == pytest.approx((softplus(0.5) + softplus(3)) / 2, rel=1e-6)
    assert float(generator_loss(fake)) == pytest.approx((softplus(-0.5) + softplus(-3)) / 2, rel=1e-6)


def test_batches_of_two_sizes_count_the_same() -> None:
    real, fake = jnp.array([0.0, 2.0]), jnp.array([1.0])
    wanted = (math.log(2) + math.log(1 + math.exp(-2))) / 2 + math.log(1 + math.e)
    assert gan_loss(real, True) + gan_loss(fake, False) == pytest.approx(wanted, rel=1e-6)


def test_lsgan_is_the_mean_square_to_one_or_zero() -> None:
    assert gan_loss(LOGITS, True, "lsgan") == pytest.approx((1 + 0 + 9 + 4) / 4)
    assert gan_loss(LOGITS, False, "lsgan") == pytest.approx((0 + 1 + 4 + 9) / 4)
    np.testing.assert_allclose(jax.grad(gan_loss)(LOGITS, True, "lsgan"), 2 * (LOGITS - 1) / 4)


def test_hinge_stops_at_the_margin() -> None:
    assert gan_loss(LOGITS, True, "hinge") == pytest.approx((1 + 0 + 3 + 0) / 4)
    assert gan_loss(LOGITS, False, "hinge") == pytest.approx((1 + 2 + 0 + 4) / 4)
    np.testing.assert_array_equal(jax.grad(gan_loss)(LOGITS, False, "hinge")[1], [0.0, 0.25])
    assert generator_loss(LOGITS, "hinge") == pytest.approx(-0.5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_logits_stay_finite(dtype: type) -> None:
    far = jnp.array([-1e4, 1e4], dtype)
    for target in (True, False):
        loss, gradient = jax.value_and_grad(gan_loss)(far, target)
        assert loss.dtype == jnp.float32
        assert float(loss) == pytest.approx(5000, rel=5e-3)
        wanted = [-0.5, 0.0] if target else [0.0, 0.5]
        np.testing.assert_array_equal(gradient.astype(jnp.float32), wanted)


@pytest.mark.parametrize("kind", ["vanilla", "lsgan", "hinge"])
def test_discriminator_loss_is_half_the_sum(kind: str) -> None:
    fake = LOGITS - 1
    wanted = 0.5 * (gan_loss(LOGITS, True, kind) + gan_loss(fake, False, kind))
    assert discriminator_loss(LOGITS, fake, kind) == pytest.approx(float(wanted))
    assert discriminator_loss(LOGITS, fake, kind) < discriminator_loss(fake, LOGITS, kind)


@pytest.mark.parametrize("kind", ["vanilla", "lsgan"])
def test_generator_wants_to_be_called_real(kind: str) -> None:
    assert float(generator_loss(LOGITS, kind)) == float(gan_loss(LOGITS, True, kind))


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match=r"'wgan'.*vanilla, lsgan, hinge"):
        gan_loss(LOGITS, True, "wgan")


def test_r1_of_a_quadratic() -> None:
    """f(x) = a |x|^2 / 2 has slope a x: the penalty is a^2 |x|^2 / 2, its slope by a is a |x|^2, averaged."""
    x = jnp.arange(12.0).reshape(2, 2, 3, 1) / 4
    squares = np.sum(np.square(np.asarray(x, np.float64)), axis=(1, 2, 3))

    def penalty(a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return r1_penalty(lambda x: a * jnp.sum(jnp.square(x), axis=(1, 2, 3)) / 2, x)

    (value, logits), slope = jax.value_and_grad(penalty, has_aux=True)(jnp.float32(3))
    assert value == pytest.approx(4.5 * squares.mean(), rel=1e-6)
    assert slope == pytest.approx(3 * squares.mean(), rel=1e-6)
    np.testing.assert_allclose(logits, 1.5 * squares, rtol=1e-6)


def test_r1_of_a_cubic() -> None:
    """f(x) = sum a^2 x^3 / 3 has the slope a^2 x^2: the penalty is a^4 x^4 / 2, its slope by a is 2 a^3 x^4."""
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 1)).astype(np.float32)
    fourths = np.sum(x.astype(np.float64) ** 4, axis=(1, 2, 3)).mean()

    def penalty(a: jax.Array) -> jax.Array:
        return r1_penalty(lambda x: jnp.sum(a**2 * x**3, axis=(1, 2, 3)) / 3, jnp.asarray(x))[0]

    value, slope = jax.value_and_grad(penalty)(1.3)
    assert float(value) == pytest.approx(0.5 * 1.3**4 * fourths, rel=1e-5)
    assert float(slope) == pytest.approx(2 * 1.3**3 * fourths, rel=1e-5)


def test_r1_of_a_constant_judge_is_zero() -> None:
    value, _ = r1_penalty(lambda x: 0 * x[:, 0, 0, 0] + 5, jnp.ones((3, 4, 4, 1), jnp.bfloat16))
    assert value == 0 and value.dtype == jnp.float32
