"""Path lengths of functions whose slopes are known by hand, and against float64 finite differences."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.losses import stylegan2 as losses

RNG = np.random.default_rng(0)
STYLES = RNG.standard_normal((3, 2, 5)).astype(np.float32)
PROBES = RNG.standard_normal((3, 2, 4, 1)).astype(np.float32)
MIX = RNG.standard_normal((2, 5, 2, 4, 1)).astype(np.float32)


def slope(f, at: float, step: float = 1e-5) -> float:
    return (f(at + step) - f(at - step)) / (2 * step)


def synthesise(a: jax.Array, ws: jax.Array) -> jax.Array:
    """Quadratic in the styles, so that the lengths depend on them."""
    return a * jnp.einsum("bld,ldhwc->bhwc", ws**2, jnp.asarray(MIX))


def lengths_by_hand(a: float, ws: np.ndarray = STYLES) -> np.ndarray:
    weights = np.einsum("bhwc,ldhwc->bld", PROBES.astype(np.float64), MIX.astype(np.float64)) / math.sqrt(8)
    return np.sqrt(np.mean(np.sum((2 * a * ws.astype(np.float64) * weights) ** 2, axis=2), axis=1))


def test_path_length_and_penalty() -> None:
    def penalty(a: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        lengths = losses.path_lengths(lambda ws: synthesise(a, ws), jnp.asarray(STYLES), jnp.asarray(PROBES))
        value, mean = losses.path_penalty(lengths, jnp.float32(2.0), 0.25)
        return value, (lengths, mean)

    def wanted(a: float) -> float:
        lengths = lengths_by_hand(a)
        return float(np.mean((lengths - (1.5 + 0.25 * np.mean(lengths))) ** 2))

    (value, (lengths, mean)), gradient = jax.jit(jax.value_and_grad(penalty, has_aux=True))(0.9)
    np.testing.assert_allclose(lengths, lengths_by_hand(0.9), rtol=1e-5)
    assert float(mean) == pytest.approx(1.5 + 0.25 * np.mean(lengths_by_hand(0.9)), rel=1e-5)
    assert float(value) == pytest.approx(wanted(0.9), rel=1e-5)
    assert float(gradient) == pytest.approx(slope(wanted, 0.9), rel=1e-4)


def test_lengths_of_zero_have_finite_gradients() -> None:
    def total(ws: jax.Array) -> jax.Array:
        return jnp.sum(losses.path_lengths(lambda ws: synthesise(1.0, ws), ws, jnp.asarray(PROBES)))

    ws = jnp.asarray(STYLES).at[1].set(0.0)
    value, gradient = jax.jit(jax.value_and_grad(total))(ws)
    assert float(value) == pytest.approx(lengths_by_hand(1.0)[[0, 2]].sum(), rel=1e-5)
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.all(np.isfinite(gradient)) and np.any(np.asarray(gradient[0]))


def test_the_remembered_mean_carries_no_gradient() -> None:
    gradient = jax.grad(lambda lengths: losses.path_penalty(lengths, 1.0)[1])(jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(gradient, 0)
