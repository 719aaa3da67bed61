"""Means of numbers per record: by hand, under the mask, merged, of nothing, and of sums that float32 cannot hold."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import mean_values

NAMES = ("loss", "error")
accumulate, merge = jax.jit(mean_values.accumulate), jax.jit(mean_values.merge)
VALUES = np.float32([[1, 2, 6], [-4, 0, 10]])
ALL = np.ones(3, np.float32)


def test_means_by_hand():
    found = mean_values.compute(accumulate(mean_values.init(2), VALUES, ALL), NAMES)
    assert found == {"loss": 3.0, "error": 2.0}
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("padding", [7.0, np.nan, np.inf])
def test_padding_counts_for_nothing(padding):
    padded = np.concatenate([VALUES[:, :2], np.full((2, 1), padding, np.float32)], axis=1)
    found = mean_values.compute(accumulate(mean_values.init(2), padded, np.float32([1, 1, 0])), NAMES)
    assert found == {"loss": 1.5, "error": -2.0}


def test_records_weigh_the_same_in_batches_of_any_size():
    """Three records, then one: the mean of four, not of two means."""
    acc = accumulate(mean_values.init(2), VALUES, ALL)
    acc = accumulate(acc, np.float32([[11, 0, 0], [2, 0, 0]]), np.float32([1, 0, 0]))
    assert mean_values.compute(acc, NAMES) == {"loss": 5.0, "error": 2.0}


def test_merged_parts_are_the_whole():
    empty = mean_values.init(2)
    first, second = (accumulate(empty, part, ALL) for part in (VALUES, 2 * VALUES + 1))
    whole = accumulate(first, 2 * VALUES + 1, ALL)
    for merged in (merge(first, second), merge(second, first), merge(whole, empty)):
        assert mean_values.compute(merged, NAMES) == mean_values.compute(whole, NAMES) == {"loss": 5.0, "error": 3.5}


@pytest.mark.parametrize("acc", [mean_values.init(2), accumulate(mean_values.init(2), VALUES, 0 * ALL)])
def test_nothing_has_no_mean(acc):
    with pytest.raises(UserError, match=r"no record was added; the split that is evaluated is empty"):
        mean_values.compute(acc, NAMES)


def test_sums_carry_what_float32_would_drop():
    """2^24 + 1 is no float32: ones added one by one to 2^24, or merged with it, would all be lost."""
    large = accumulate(mean_values.init(1), np.float32([[2**24, 0, 0]]), np.float32([1, 0, 0]))

    def one_more(_, acc):
        return mean_values.accumulate(acc, jnp.ones((1, 1)), jnp.ones(1))

    ones = jax.jit(lambda acc: jax.lax.fori_loop(0, 999, one_more, acc))
    for acc in (ones(large), merge(large, ones(mean_values.init(1)))):
        assert mean_values.compute(acc, ("sum",))["sum"] == (2**24 + 999) / 1000
    assert np.float32(2**24) + np.float32(1) == 2**24
