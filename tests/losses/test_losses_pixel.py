"""Pixel distances by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.losses.pixel import l1, mse

A = jnp.array([1.0, -2.0, 0.5, 0.0]).reshape(1, 2, 2, 1)
B = jnp.array([0.0, 2.0, 0.5, 3.0]).reshape(1, 2, 2, 1)


def test_values_and_gradients() -> None:
    assert float(l1(A, B)) == (1 + 4 + 0 + 3) / 4
    assert float(mse(A, B)) == (1 + 16 + 0 + 9) / 4
    np.testing.assert_array_equal(jax.grad(l1)(A, B).ravel(), [0.25, -0.25, 0.0, -0.25])
    np.testing.assert_array_equal(jax.grad(mse)(A, B).ravel(), [0.5, -2.0, 0.0, -1.5])


@pytest.mark.parametrize("loss", [l1, mse])
def test_bfloat16_images_are_compared_in_float32(loss) -> None:
    a, b = jnp.full((1, 64, 64, 1), 1.0, jnp.bfloat16), jnp.full((1, 64, 64, 1), 1.0078125, jnp.bfloat16)
    value = loss(a, b)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(0.0078125 if loss is l1 else 0.0078125**2, rel=1e-6)


@pytest.mark.parametrize("loss", [l1, mse])
def test_shapes_must_agree(loss) -> None:
    with pytest.raises(ValueError, match="shapes"):
        loss(A, B[..., 0])
    with pytest.raises(ValueError, match="shapes"):
        loss(A, B[:, :1])
