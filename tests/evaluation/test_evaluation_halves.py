"""Half-samples: the textbook standard error of a mean, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.evaluation import distances, halves
from medgen_jax.evaluation.settings import Settings


def test_the_mean_gets_its_textbook_standard_error():
    values = np.random.default_rng(0).normal(size=200)
    found = halves.standard_errors(lambda rows: {"mean": values[rows].mean()}, [200], 4000, seed=1)
    assert found["mean"] == pytest.approx(values.std(ddof=1) / np.sqrt(200), rel=0.04)


def test_two_sets_are_halved_independently():
    """Variance of a difference is the sum of the variances."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=100), 3 * rng.normal(size=60)
    found = halves.standard_errors(lambda i, j: {"d": a[i].mean() - b[j].mean()}, [100, 60], 4000, seed=1)
    expected = np.sqrt(a.var(ddof=1) / 100 + b.var(ddof=1) / 60)
    assert found["d"] == pytest.approx(expected, rel=0.04)


def test_no_image_is_drawn_twice_and_draws_follow_the_seed():
    seen = []
    halves.standard_errors(lambda rows: seen.append(rows) or {"x": 0.0}, [9], 5, seed=3)
    assert all(len(rows) == 4 == len(set(rows)) for rows in seen)
    again = []
    halves.standard_errors(lambda rows: again.append(rows) or {"x": 0.0}, [9], 5, seed=3)
    np.testing.assert_array_equal(seen, again)


def test_large_sets_get_fewer_half_samples():
    counts = [halves.affordable(n) for n in (1, 512, 1000, 2400, 50_000)]
    assert counts[0] == counts[1] == halves.MOST and counts[-1] == halves.FEWEST
    assert counts == sorted(counts, reverse=True)


def test_intervals_hold_the_mean_of_the_estimate_about_as_often_as_promised():
    """60 experiments of 40 against 40 features of 6 numbers; the truth is the mean over all of them."""
    settings = Settings(resamples=40)
    values, ends = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        real, fake = rng.normal(size=(40, 6)), 1.3 * rng.normal(size=(40, 6)) + 0.5
        score = distances.fid(distances.Reference.of(real), fake, settings)["fid"]
        values.append(score.value)
        ends.append(score.interval)
    low, high = np.transpose(ends)
    covered = np.mean((low <= np.mean(values)) & (np.mean(values) <= high))
    assert 0.85 <= covered <= 1.0
    # Not by being wide: 95 % reach about twice 1.96 standard deviations.
    assert np.mean(high - low) < 2 * 3.92 * np.std(values)
