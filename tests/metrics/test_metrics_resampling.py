"""Half-samples and the bootstrap: the textbook standard error of a mean, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.metrics.resampling import METHODS, standard_errors


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_gets_its_textbook_standard_error(method):
    values = np.random.default_rng(0).normal(size=200)
    found = standard_errors(lambda rows: {"mean": values[rows].mean()}, [200], 4000, 1, method)
    assert found["mean"] == pytest.approx(values.std(ddof=1) / np.sqrt(200), rel=0.04)


def test_two_sets_are_halved_independently():
    """Variance of a difference is the sum of the variances."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=100), 3 * rng.normal(size=60)
    found = standard_errors(lambda i, j: {"d": a[i].mean() - b[j].mean()}, [100, 60], 4000, seed=1)
    expected = np.sqrt(a.var(ddof=1) / 100 + b.var(ddof=1) / 60)
    assert found["d"] == pytest.approx(expected, rel=0.04)


def test_no_image_is_drawn_twice_and_draws_follow_the_seed():
    seen = []
    standard_errors(lambda rows: seen.append(rows) or {"x": 0.0}, [9], 5, seed=3)
    assert all(len(rows) == 4 == len(set(rows)) for rows in seen)
    again = []
    standard_errors(lambda rows: again.append(rows) or {"x": 0.0}, [9], 5, seed=3)
    np.testing.assert_array_equal(seen, again)


def test_a_number_that_is_not_finite_has_no_error():
    values = iter([1.0, np.inf, 2.0])
    assert np.isnan(standard_errors(lambda rows: {"x": next(values)}, [9], 3, seed=0)["x"])
