"""Precision, recall, density, coverage: points on a line, loops over pairs, ties, bad input."""

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import manifold


def features(seed, n=40, d=3, spread=1.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) * spread).astype(np.float32)


def line(*values):
    return np.array(values, float)[:, None]


def by_loops(real, fake, k):
    def distance(a, b):
        return np.sqrt(np.sum((a.astype(float) - b.astype(float)) ** 2))

    def radius(points, i):
        return sorted(distance(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, j) for j in range(len(fake))]
    inside = np.array([[distance(r, f) < radius for f in fake] for r, radius in zip(real, real_radii, strict=True)])
    reached = np.array([[distance(r, f) < radius for f, radius in zip(fake, fake_radii, strict=True)] for r in real])
    return {
        "precision": inside.any(0).mean(),
        "recall": reached.any(1).mean(),
        "density": inside.sum() / (k * len(fake)),
        "coverage": inside.any(1).mean(),
    }


def test_points_on_a_line():
    """Real balls: 0 +- 1, 1 +- 1, 3 +- 2, 10 +- 7. Fakes .5 (in two balls), 4 (in two) and 20 (in
    none); fake balls: .5 +- 3.5, 4 +- 3.5, 20 +- 16 hold all reals."""
    got = manifold.manifold_scores(line(0, 1, 3, 10), line(0.5, 4, 20), k=1)
    assert got == {"precision": 2 / 3, "recall": 1.0, "density": 4 / 3, "coverage": 1.0}


def test_a_missed_mode_costs_recall_and_coverage_not_precision():
    real = line(0, 0.1, 0.3, 100, 100.1, 100.3)
    got = manifold.manifold_scores(real, line(0.02, 0.12, 0.24), k=1)
    assert got["precision"] == 1.0
    assert got["recall"] <= 0.5 and got["coverage"] == 0.5


@pytest.mark.parametrize("block", [1, 64, 1 << 22])
@pytest.mark.parametrize("k", [1, 3])
def test_agrees_with_loops_over_pairs_in_any_block_size(k, block, monkeypatch):
    monkeypatch.setattr(manifold, "BLOCK_VALUES", block)
    real, fake = features(0), features(1, 25, spread=1.6)
    assert manifold.manifold_scores(real, fake, k=k) == pytest.approx(by_loops(real, fake, k), rel=1e-12)


def test_far_from_the_origin_and_in_any_order():
    real, fake = (features(seed, spread=64).round().astype(float) for seed in (2, 3))
    near = manifold.manifold_scores(real, fake, k=3)
    assert manifold.manifold_scores(real[::-1] + 2.0**28, fake[::-1] + 2.0**28, k=3) == near
    swapped = manifold.manifold_scores(fake, real, k=3)
    assert (swapped["precision"], swapped["recall"]) == (near["recall"], near["precision"])


def test_a_copy_of_the_real_set():
    """Each copy lies in its own ball and k - 1 others' on average; ties on surfaces stay outside."""
    real = features(4, 50, 20)
    got = manifold.manifold_scores(real, real[np.random.default_rng(0).permutation(50)], k=4)
    assert got == {"precision": 1.0, "recall": 1.0, "density": 1.0, "coverage": 1.0}


def test_far_sets_score_zero():
    real = features(5)
    assert set(manifold.manifold_scores(real, real + 1000).values()) == {0.0}


def test_surface_of_a_ball():
    """Reals 0, 1 have radius 1: a fake at 2 is on the surface of the second."""
    real, fake = line(0, 1), line(2, 9)
    assert manifold.manifold_scores(real, fake, k=1)["precision"] == 0.0
    assert manifold.manifold_scores(real, fake, k=1, closed=True)["precision"] == 0.5


def test_rounding_does_not_decide_about_surfaces():
    """A grid of step .1 against itself: each fake is in its own real ball, on those of its neighbours."""
    grid = 0.1 * np.arange(30)[:, None]
    assert manifold.manifold_scores(grid, grid, k=1)["density"] == 1.0
    assert manifold.manifold_scores(grid, grid, k=1, closed=True)["density"] == (3 * 30 - 2) / 30


def test_constant_features_are_finite():
    flat = np.full((7, 3), 0.1, np.float32)
    assert set(manifold.manifold_scores(flat, flat).values()) == {0.0}
    assert manifold.manifold_scores(flat, flat, k=2, closed=True) == {
        "precision": 1.0,
        "recall": 1.0,
        "density": 3.5,
        "coverage": 1.0,
    }
    assert np.isfinite(list(manifold.manifold_scores(features(6), flat).values())).all()


def test_bad_input_is_named():
    good, bad = features(7), features(8)
    bad[0, 0] = np.nan
    with pytest.raises(UserError, match="fake features: number 0 holds NaN or infinity"):
        manifold.manifold_scores(good, bad)
    with pytest.raises(UserError, match="real features: 5 of them; at least 6"):
        manifold.manifold_scores(good[:5], good)
    assert np.isfinite(list(manifold.manifold_scores(good[:6], good).values())).all()
    with pytest.raises(UserError, match="3 numbers each and fake features 2"):
        manifold.manifold_scores(good, good[:, :2])
    with pytest.raises(UserError, match="k is 0"):
        manifold.manifold_scores(good, good, k=0)
