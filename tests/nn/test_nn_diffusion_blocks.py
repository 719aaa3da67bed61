"""Parts of the diffusion networks against their formulas in float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.nn import diffusion_blocks as blocks


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_timestep_embedding_is_cosines_then_sines() -> None:
    got = blocks.timestep_embedding(jnp.array([0.0, 2.0, 999.5]), 8)
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    angles = np.array([[0.0], [2.0], [999.5]]) * frequencies
    np.testing.assert_allclose(got, np.concatenate((np.cos(angles), np.sin(angles)), axis=1), atol=1e-4)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got[1], blocks.timestep_embedding(jnp.array([2]), 8)[0])


@pytest.mark.parametrize(("groups", "used"), [(6, 6), (32, 2)])
def test_group_norm(groups: int, used: int) -> None:
    """Of six channels 32 groups make 2, their greatest common divisor; the scale acts as 1 + scale."""
    x, gain, bias = 3 * normal(0, 2, 4, 5, 6) + normal(1, 6), normal(2, 6), normal(3, 6)
    scale, shift = normal(4, 2, 6), normal(5, 2, 6)
    norm = blocks.GroupNorm(groups, jnp.float32)
    got = norm.apply({"params": {"scale": gain, "bias": bias}}, x, scale, shift)
    grouped = x.astype(np.float64).reshape(2, 20, used, -1)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    plain = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * gain + bias
    np.testing.assert_allclose(got, plain * (1 + scale[:, None, None]) + shift[:, None, None], atol=2e-5)
    np.testing.assert_allclose(norm.apply({"params": {"scale": gain, "bias": bias}}, x), plain, atol=2e-5)


def test_group_norm_of_half_precision_measures_in_float32() -> None:
    x = jnp.asarray(100 + normal(0, 1, 16, 16, 4), jnp.bfloat16)
    norm = blocks.GroupNorm(2, jnp.bfloat16)
    got = norm.apply({"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}, x)
    exact = np.asarray(x, np.float64).reshape(256, 2, 2)
    exact = (exact - exact.mean((0, 2), keepdims=True)) / exact.std((0, 2), keepdims=True)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), exact.reshape(x.shape), rtol=2**-8, atol=1e-3)


def test_flat_input_becomes_the_bias() -> None:
    norm = blocks.GroupNorm(2, jnp.float32)
    params = {"scale": jnp.ones(4), "bias": jnp.arange(4.0)}
    value, grad = jax.value_and_grad(lambda x: norm.apply({"params": params}, x)[0, 0, 0, 3])(
        jnp.full((1, 2, 2, 4), 7.0)
    )
    assert value == 3 and np.all(np.isfinite(grad))


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Head by head in float64."""
    out = np.empty((*query.shape[:3], value.shape[3]))
    for b in range(query.shape[0]):
        for h in range(query.shape[2]):
            scores = query[b, :, h].astype(np.float64) @ key[b, :, h].T / np.sqrt(query.shape[3])
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[b, :, h] = weights / weights.sum(axis=1, keepdims=True) @ value[b, :, h]
    return out


def test_attention_whole_and_in_parts() -> None:
    """3 queries at a time of 7, which leaves one over, give the same values and gradients."""
    query, key, value = 2 * normal(0, 2, 7, 3, 4), 2 * normal(1, 2, 5, 3, 4), normal(2, 2, 5, 3, 6)
    probe = normal(3, 2, 7, 3, 6)

    def run(queries: int) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        def loss(*qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = blocks.attend(*qkv, queries)
            return jnp.sum(out * probe), out

        grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)
        return out, grads

    whole, parts = run(7), run(3)
    np.testing.assert_allclose(whole[0], attention(query, key, value), atol=1e-5)
    for got, wanted in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("heads", [2, 3])
def test_head_orders(heads: int) -> None:
    """Channel numbers say where each head's query, key and value are read; 3 heads look like 3 kinds."""
    width = 4 * heads
    qkv = jnp.arange(3 * width, dtype=jnp.float32).reshape(1, 1, -1)
    for order, start in (
        ("legacy", lambda head, which: 12 * head + 4 * which),
        ("new", lambda h, w: width * w + 4 * h),
    ):
        for which, part in enumerate(blocks.split_heads(qkv, heads, order)):
            wanted = [[start(head, which) + i for i in range(4)] for head in range(heads)]
            np.testing.assert_array_equal(part[0, 0], wanted)
