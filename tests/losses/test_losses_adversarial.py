"""Adversarial losses against their formulas, at zero, at one and far out."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.losses.adversarial import discriminator_loss, gan_loss, generator_loss

LOGITS = jnp.array([[0.0, 1.0], [-2.0, 3.0]])


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def test_vanilla_is_the_mean_cross_entropy() -> None:
    values = [0.0, 1.0, -2.0, 3.0]
    real = -sum(math.log(sigmoid(v)) for v in values) / 4
    fake = -sum(math.log(1 - sigmoid(v)) for v in values) / 4
    assert gan_loss(LOGITS, True) == pytest.approx(real, rel=1e-6)
    assert gan_loss(LOGITS, False) == pytest.approx(fake, rel=1e-6)
    assert gan_loss(jnp.zeros((2, 3)), True) == pytest.approx(math.log(2), rel=1e-6)
    gradient = jax.grad(gan_loss)(LOGITS, True)
    np.testing.assert_allclose(gradient.ravel(), [(sigmoid(v) - 1) / 4 for v in values], rtol=1e-5)


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
