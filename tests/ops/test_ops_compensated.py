"""Compensated sums: exactness where float32 alone fails, order of merging, masked records."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.ops import compensated


def test_a_small_number_is_kept_beside_a_large_one() -> None:
    big = compensated.pair(jnp.float32(2.0**30))
    one = compensated.pair(jnp.float32(1.0))
    kept = jax.jit(compensated.add)(big, one)
    assert float(kept[0]) == 2.0**30
    assert float(compensated.value(kept)) == 2.0**30 + 1


def test_products_are_exact() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(-3, 3, 500).astype(np.float32) for _ in range(2))
    got = compensated.value(jax.jit(compensated.product)(x, y))
    np.testing.assert_array_equal(got, x.astype(np.float64) * y.astype(np.float64))


def test_multiples_are_exact() -> None:
    x = np.float32([0.1, 1 / 3])
    parts = np.asarray(compensated.multiple(1_000_003, jnp.asarray(x)), np.float64)
    np.testing.assert_array_equal(parts.sum(-1), x.astype(np.float64) * 1_000_003)


@pytest.mark.parametrize("count", [1, 77])
def test_totals_carry_twice_the_digits(count: int) -> None:
    x = np.random.default_rng(count).normal(0, 1, (2, count)).astype(np.float32) * np.float32(1e4)
    got = compensated.value(jax.jit(compensated.total)(x))
    np.testing.assert_allclose(got, x.astype(np.float64).sum(-1), rtol=1e-12)


def test_records_count_under_the_mask_alone() -> None:
    records = jnp.asarray([[1.0, 2.0, jnp.nan], [4.0, 8.0, jnp.inf]])
    add_records = jax.jit(compensated.add_records)
    acc = add_records(compensated.zeros(2), records, jnp.asarray([1, 1, 0]))
    np.testing.assert_array_equal(compensated.value(acc), [3, 12])
    acc = add_records(acc, jnp.stack([records, jnp.zeros_like(records)], -1), jnp.asarray([True, False, False]))
    np.testing.assert_array_equal(compensated.value(acc), [4, 16])
