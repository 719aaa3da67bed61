"""Kernel distance: hand-computed values, loops over pairs, its standard errors, bad input."""

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import kernel


def features(seed, n=30, d=4, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def by_loops(x, y):
    x, y = x.astype(float), y.astype(float)

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    def within(z):
        return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_by_hand():
    """Two zeros against two ones: 1 + 8 - 2. In two dimensions x.y / d halves (1, 0).(1, 0)."""
    assert kernel.kernel_distance(np.zeros((2, 1)), np.ones((2, 1)))["kid"] == 7.0
    unit = np.tile([1.0, 0.0], (3, 1))
    assert kernel.kernel_distance(np.zeros((2, 2)), unit)["kid"] == pytest.approx(1 + 1.5**3 - 2)


def test_own_pairs_are_left_out():
    """-1 and 1 against zeros: the one pair has kernel 0, the cross pairs 1, so 0 + 1 - 2 < 0."""
    assert kernel.kernel_distance([[-1.0], [1.0]], np.zeros((2, 1)))["kid"] == pytest.approx(-1.0)


@pytest.mark.parametrize("block", [1, 64, 1 << 22])
def test_agrees_with_loops_over_pairs_in_any_block_size(block, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK_VALUES", block)
    x, y = features(0), features(1, 23, shift=0.5)
    assert kernel.kernel_distance(x, y)["kid"] == pytest.approx(by_loops(x, y), rel=1e-12)


def test_order_of_features_and_sets_is_free():
    x, y = features(2), features(3, 40, shift=0.5)
    got, swapped = kernel.kernel_distance(x, y), kernel.kernel_distance(y[::-1], x[::-1])
    assert swapped["kid"] == pytest.approx(got["kid"], rel=1e-12)
    assert swapped["kid_standard_error"] == pytest.approx(got["kid_standard_error"], rel=1e-12)


def test_unbiased_and_honest_about_its_error():
    """Over many pairs of sets: centred on the value of long sets, spread as each set says itself."""
    draws = [kernel.kernel_distance(features(100 + i, 50), features(500 + i, 60, shift=0.4)) for i in range(200)]
    values = np.array([draw["kid"] for draw in draws])
    long = kernel.kernel_distance(features(4, 3000), features(5, 3000, shift=0.4))
    tolerance = 4 * (values.std() / np.sqrt(200) + long["kid_standard_error"])
    assert values.mean() == pytest.approx(long["kid"], abs=tolerance)
    said = np.sqrt(np.mean([draw["kid_standard_error"] ** 2 for draw in draws]))
    assert 0.85 < said / values.std() < 1.35


def test_subsets_are_means_over_draws_of_both_sets():
    x, y = features(6, 12), features(7, 15, shift=0.5)
    got = kernel.kernel_distance_subsets(x, y, subsets=8, subset_size=5, seed=9)
    rng = np.random.default_rng(9)
    values = [by_loops(x[rng.permutation(12)[:5]], y[rng.permutation(15)[:5]]) for _ in range(8)]
    assert got["kid_subset_mean"] == pytest.approx(np.mean(values), rel=1e-10)
    assert got["kid_subset_std"] == pytest.approx(np.std(values, ddof=1), rel=1e-10)
    assert got["kid_subset_standard_error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(8), rel=1e-10)
    assert got == kernel.kernel_distance_subsets(x, y, subsets=8, subset_size=5, seed=9)
    assert got != kernel.kernel_distance_subsets(x, y, subsets=8, subset_size=5, seed=10)


def test_subset_mean_centres_on_the_distance_of_the_full_sets():
    x, y = features(8, 60), features(9, 60, shift=0.5)
    got = kernel.kernel_distance_subsets(x, y, subsets=200)
    full = kernel.kernel_distance(x, y)["kid"]
    assert got["kid_subset_size"] == 30
    assert got["kid_subset_mean"] == pytest.approx(full, abs=4 * got["kid_subset_standard_error"])


def test_constant_features_are_finite():
    flat = np.full((6, 3), 0.1, np.float32)
    assert kernel.kernel_distance(flat, flat)["kid"] == pytest.approx(0, abs=1e-14)
    assert kernel.kernel_distance(flat, flat)["kid_standard_error"] == pytest.approx(0, abs=1e-14)
    assert np.isfinite(kernel.kernel_distance_subsets(flat, features(10, 9, 3), subsets=3)["kid_subset_mean"])


def test_features_of_a_network(shared):
    """Four images against four; the stored KID is of 32 against 32, which needs the network."""
    with np.load(shared / "weights" / "golden.npz", allow_pickle=False) as golden:
        x, y = golden["feat_tf_s0"], golden["feat_tf_s1"]
    assert kernel.kernel_distance(x, y)["kid"] == pytest.approx(by_loops(x, y), rel=1e-10)


def test_bad_input_is_named():
    good, bad = features(11), features(12)
    bad[5] = np.inf
    with pytest.raises(UserError, match="real features: number 5 holds NaN or infinity"):
        kernel.kernel_distance(bad, good)
    with pytest.raises(UserError, match="fake features: 1 of them"):
        kernel.kernel_distance(good, good[:1])
    with pytest.raises(UserError, match="4 numbers each and fake features 3"):
        kernel.kernel_distance_subsets(good, good[:, :3])
    for options in ({"subsets": 1}, {"subset_size": 1}, {"subset_size": 31}):
        with pytest.raises(UserError, match="cannot be drawn"):
            kernel.kernel_distance_subsets(good, good, **options)
