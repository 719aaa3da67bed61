"""Measures of sets: the metrics' own numbers, with floors, extrapolations and intervals around them."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.evaluation import distances
from medgen_jax.evaluation.distances import Reference
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics import frechet, intervals, kernel, manifold

REAL, FAKE = (np.random.default_rng(s).normal(size=(n, 5)) * (1 + s) + s / 2 for s, n in ((0, 40), (1, 30)))
QUICK = Settings(resamples=10)


def test_fid_is_the_metrics_own_and_carries_what_judges_it():
    score = distances.fid(Reference.of(REAL), FAKE, QUICK)["fid"]
    assert score.value == pytest.approx(frechet.frechet_distance(REAL, FAKE))
    extras = score.extras
    assert extras["fid_mean"] + extras["fid_covariance"] == pytest.approx(score.value)
    infinity = frechet.frechet_infinity(frechet.statistics(REAL), FAKE, seed=0)
    assert extras["fid_infinity"] == infinity["fid_infinity"]
    assert extras["fid_infinity_standard_error"] == infinity["fid_infinity_standard_error"]
    assert extras["floor_n"] == 20 and 0 < extras["floor"] < score.value
    low, high = score.interval
    assert high - score.value == pytest.approx(score.value - low)  # symmetric, as FID is far from zero here
    assert high - score.value == pytest.approx(1.959964 * extras["standard_error"])
    assert score.method == "normal, standard error from 10 half-samples of both sets"


def test_the_floor_is_that_of_halves_of_one_distribution():
    """Of 40 features of one distribution: E|mu_1 - mu_2|^2 alone is trace (1/20 + 1/20)."""
    score = distances.fid(Reference.of(REAL), FAKE, QUICK)["fid"]
    assert score.extras["floor"] > np.trace(np.cov(REAL.T)) * 0.1 / 2
    # Without any other knowledge of the set: it does not depend on what was generated.
    other = distances.fid(Reference.of(REAL), FAKE + 100, QUICK)["fid"]
    assert other.extras["floor"] == score.extras["floor"]


def test_small_sets_are_warned_about_in_words(monkeypatch):
    score = distances.fid(Reference.of(REAL), FAKE, QUICK)["fid"]
    assert "FID of 40 real and 30 generated images, fewer than 2048" in score.warnings[0]
    monkeypatch.setattr(distances, "FEW", 35)
    assert "FID of 30 generated images" in distances.fid(Reference.of(REAL), FAKE, QUICK)["fid"].warnings[0]
    monkeypatch.setattr(distances, "FEW", 30)
    assert not distances.fid(Reference.of(REAL), FAKE, QUICK)["fid"].warnings


def test_a_reference_without_features_gives_the_same_fid_and_no_floor():
    whole = distances.fid(Reference.of(REAL), FAKE, QUICK)["fid"]
    stored = distances.fid(Reference(frechet.statistics(REAL), None), FAKE, QUICK)["fid"]
    assert stored.value == pytest.approx(whole.value, rel=1e-12)
    assert "floor" not in stored.extras and "the reference held fixed" in stored.method
    assert stored.extras["standard_error"] < whole.extras["standard_error"] * 1.5


def test_the_smallest_sets_that_are_let_through():
    """`measures` asks for 4 images a side, and for 2 (k + 1) where neighbours count."""
    smallest = Reference.of(REAL[:4])
    assert np.isfinite(distances.fid(smallest, FAKE[:4], QUICK)["fid"].extras["fid_infinity"])
    assert np.isfinite(distances.kid(smallest, FAKE[:4], QUICK)["kid"].interval).all()
    found = distances.prdc(smallest, FAKE[:4], Settings(k=1, resamples=10))
    assert all(np.isfinite(score.interval).all() for score in found.values())


def test_no_resamples_no_interval():
    for found in (distances.fid, distances.prdc):
        for score in found(Reference.of(REAL), FAKE, Settings(resamples=0)).values():
            assert score.interval is None and score.method == distances.NONE


def test_kid_has_both_forms():
    settings = Settings(kid_subsets=7, kid_subset_size=11, seed=3)
    score = distances.kid(Reference.of(REAL), FAKE, settings)["kid"]
    full = kernel.kernel_distance(REAL, FAKE)
    published = kernel.kernel_distance_subsets(REAL, FAKE, subsets=7, subset_size=11, seed=3)
    assert score.value == full["kid"] and score.extras["standard_error"] == full["kid_standard_error"]
    assert score.extras["subset_mean"] == published["kid_subset_mean"]
    assert score.extras["subset_standard_error"] == published["kid_subset_standard_error"]
    assert (score.extras["subsets"], score.extras["subset_size"]) == (7, 11)
    assert score.interval == pytest.approx(intervals.mean_interval(full["kid"], full["kid_standard_error"])[:2])


def test_kid_of_one_distribution_may_be_negative_and_its_interval_too():
    found = distances.kid(Reference.of(REAL[:20]), REAL[20:], QUICK)["kid"]
    assert found.interval[0] < 0 < found.interval[1]


def test_shares_are_the_metrics_own_and_their_intervals_stay_within_0_and_1():
    scores = distances.prdc(Reference.of(REAL), FAKE, QUICK)
    for name, value in manifold.manifold_scores(REAL, FAKE, k=5).items():
        assert scores[name].value == value and scores[name].extras["k"] == 5
        low, high = scores[name].interval
        assert 0 <= low <= value <= high and (high <= 1 or name == "density")


def test_a_share_of_one_is_not_certain():
    """All fakes inside, in every half-sample too: Wilson's interval is all there is."""
    real = np.random.default_rng(0).normal(size=(40, 2))
    inside = np.zeros((30, 2)) + np.random.default_rng(1).normal(size=(30, 2)) * 1e-3
    score = distances.prdc(Reference.of(real), inside, QUICK)["precision"]
    assert score.value == 1 and score.extras["standard_error"] == 0
    assert score.interval == pytest.approx(intervals.wilson_interval(30, 30)[:2])


def test_nearest_real_images():
    real = np.array([[0.0, 0], [10, 0], [0, 10]])
    index, distance = distances.nearest_real(Reference.of(real), np.array([[9.0, 0], [0, 0], [3, 14]]))
    np.testing.assert_array_equal(index, [1, 0, 2])
    np.testing.assert_allclose(distance, [1, 0, 5])


def test_large_sets_get_fewer_half_samples():
    counts = [distances.half_samples((1, n), Settings()) for n in (1, 512, 1000, 2400, 50_000)]
    assert counts[0] == counts[1] == distances.MOST and counts[-1] == distances.FEWEST
    assert counts == sorted(counts, reverse=True)
    assert distances.half_samples((50_000,), Settings(resamples=7)) == 7


def test_intervals_hold_the_mean_of_the_estimate_about_as_often_as_promised():
    """60 experiments of 40 against 40 features of 6 numbers; the truth is the mean over all of them."""
    settings = Settings(resamples=40)
    values, ends = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        real, fake = rng.normal(size=(40, 6)), 1.3 * rng.normal(size=(40, 6)) + 0.5
        score = distances.fid(Reference.of(real), fake, settings)["fid"]
        values.append(score.value)
        ends.append(score.interval)
    low, high = np.transpose(ends)
    covered = np.mean((low <= np.mean(values)) & (np.mean(values) <= high))
    assert 0.85 <= covered <= 1.0
    # Not by being wide: 95 % reach about twice 1.96 standard deviations.
    assert np.mean(high - low) < 2 * 3.92 * np.std(values)
