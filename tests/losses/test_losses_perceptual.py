"""Content and perceptual losses on feature functions that are known by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.losses import perceptual
from medgen_jax.losses.pixel import l1

A = jnp.array([1.0, -2.0, 0.5, 0.0]).reshape(1, 2, 2, 1)
B = jnp.array([0.0, 2.0, 0.5, 3.0]).reshape(1, 2, 2, 1)


def doubled(x: jax.Array) -> jax.Array:
    return 2 * x


def two_taps(x: jax.Array) -> dict[str, jax.Array]:
    return {"near": x, "far": jnp.sum(x, axis=(1, 2), keepdims=True)}


def test_content_is_the_mean_squared_difference_of_features() -> None:
    assert float(perceptual.content(doubled, A, B)) == 4 * (1 + 16 + 0 + 9) / 4
    assert float(perceptual.content(doubled, A, B, l1)) == 2 * (1 + 4 + 0 + 3) / 4
    np.testing.assert_array_equal(
        jax.grad(lambda a: perceptual.content(doubled, a, B))(A).ravel(), [2.0, -8.0, 0, -6.0]
    )


def test_taps_count_equally_whatever_their_size() -> None:
    """Near: 26 / 4. Far: sums -0.5 and 5.5 differ by 6."""
    assert float(perceptual.content(two_taps, A, B)) == (26 / 4 + 36) / 2
    assert float(perceptual.content(two_taps, A, B, l1)) == (8 / 4 + 6) / 2


def test_a_fixed_image_costs_no_backward_pass() -> None:
    """The features of the target are never differentiated: a rule that fails when it runs is not reached."""

    @jax.custom_vjp
    def once(x: jax.Array) -> jax.Array:
        return 2 * x

    backward: list[tuple[int, ...]] = []
    once.defvjp(lambda x: (2 * x, None), lambda _, g: (backward.append(g.shape) or 2 * g,))
    gradient = jax.grad(lambda a: perceptual.content(once, a, B))(A)
    np.testing.assert_array_equal(gradient.ravel(), [2.0, -8.0, 0, -6.0])
    assert backward == [A.shape]


def test_perceptual_distance_is_averaged_over_the_batch() -> None:
    x, y = jnp.zeros((3, 2, 2, 1)), jnp.arange(3.0).reshape(3, 1, 1, 1) * jnp.ones((3, 2, 2, 1))
    distance = lambda x, y: jnp.mean(jnp.square(x - y), axis=(1, 2, 3))  # noqa: E731
    assert float(perceptual.lpips(distance, x, y)) == pytest.approx((0 + 1 + 4) / 3)


def test_features_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        perceptual.content(doubled, A, B[:, :1])


@pytest.mark.parametrize("penalty", [perceptual.mse, l1])
def test_losses_are_float32_scalars(penalty) -> None:
    half = A.astype(jnp.bfloat16), B.astype(jnp.bfloat16)
    got = perceptual.content(doubled, *half, penalty)
    assert got.shape == () and got.dtype == jnp.float32
    assert perceptual.lpips(lambda x, y: x[:, 0, 0, 0], *half).dtype == jnp.float32
