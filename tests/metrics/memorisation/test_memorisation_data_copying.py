"""C_T: U by hand and against SciPy, k-means and principal axes, its sign and level, cells that are too small."""

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.memorisation import data_copying
from medgen_jax.metrics.memorisation.data_copying import (
    c_t,
    fit_cells,
    k_means,
    mann_whitney,
    normal_tail,
    place,
    principal_axes,
)


def gaussian(seed, n=120, d=6):
    return np.random.default_rng(seed).normal(size=(n, d))


def score(train, generated, held_out, **options):
    cells = fit_cells(train, **options)
    sides = [place(features, cells)[::-1] for features in (generated, held_out)]
    return c_t(*sides[0], *sides[1])


def test_u_by_hand():
    """Of 1, 5 against 2, 3, 5: 1 wins none, 5 wins two and ties once. The one tie takes 6 / 20 off the 5 + 1."""
    u, z = mann_whitney(np.array([1.0, 5]), np.array([2.0, 3, 5]))
    assert u == 2.5
    assert z == pytest.approx((2.5 - 3) / np.sqrt(6 / 12 * (6 - 6 / 20)))
    assert mann_whitney(np.ones(3), np.ones(4)) == (6.0, 0.0)


@pytest.mark.parametrize("levels", [None, 6])
def test_u_agrees_with_scipy(levels):
    stats = pytest.importorskip("scipy.stats")
    x, y = gaussian(0, 25, 1)[:, 0], gaussian(1, 40, 1)[:, 0] + 0.3
    if levels:
        x, y = np.round(x * 2), np.round(y * 2)
    reference = stats.mannwhitneyu(x, y, use_continuity=False, alternative="less", method="asymptotic")
    u, z = mann_whitney(x, y)
    assert u == reference.statistic
    assert normal_tail(z) == pytest.approx(reference.pvalue, rel=1e-10)


def test_c_t_by_hand():
    """Two cells of 10 and 30 held-out images weigh as 1 to 3."""
    generated, held_out = np.arange(8.0), np.arange(10.0) + 0.5
    cell = np.zeros
    first = mann_whitney(generated, held_out)[1]
    second = mann_whitney(generated + 100, np.arange(30.0))[1]
    got = c_t(
        np.concatenate([generated, generated + 100]),
        np.concatenate([cell(8), cell(8) + 1]),
        np.concatenate([held_out, np.arange(30.0)]),
        np.concatenate([cell(10), cell(30) + 1]),
    )
    assert got["c_t"] == pytest.approx((10 * first + 30 * second) / 40)
    assert got["p_value"] == pytest.approx(normal_tail((10 * first + 30 * second) / np.hypot(10, 30)))
    assert [(record["generated"], record["held_out"]) for record in got["cells"]] == [(8, 10), (8, 30)]


def test_cells_with_few_images_do_not_count():
    distance, cell = np.arange(20.0), np.repeat([0, 1], [13, 7])
    got = c_t(distance, cell, distance, cell)
    assert got["cells"][1] == {"cell": 1, "generated": 7, "held_out": 7, "z": None}
    assert got["c_t"] == 0.0 and got["p_value"] == 0.5
    assert c_t(distance[:7], cell[:7], distance, cell)["c_t"] is None
    lonely = c_t(distance[:1], cell[:1], distance[:1], cell[:1] + 1, minimum=0)
    assert lonely["c_t"] is None and lonely["p_value"] is None


def test_sign_on_copies_fresh_draws_and_misses():
    train, held_out, fresh = gaussian(0), gaussian(1), gaussian(2)
    copies = train + 0.05 * gaussian(3)
    assert score(train, copies, held_out)["c_t"] < -5
    assert abs(score(train, fresh, held_out)["c_t"]) < 2
    assert score(train, 3 * fresh, held_out)["c_t"] > 4
    assert score(train, copies, held_out)["p_value"] < 1e-6 < 0.99 < score(train, 3 * fresh, held_out)["p_value"]


def test_distances_stay_within_the_cell():
    """Twenty at 0, and 6 and 14 around 10: 4.9 belongs to the zeros, though 6 is nearer."""
    train = np.array([0.0] * 20 + [6, 14])[:, None]
    cells = fit_cells(train, cells=2)
    cell, distance = place(np.array([4.9, 7])[:, None], cells)
    assert cell[0] == cells.train_cell[0] != cells.train_cell[20] == cell[1]
    np.testing.assert_allclose(distance, [4.9, 1])


def test_k_means_finds_clusters_and_one_answer_per_seed():
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    points = (centres[:, None] + 0.1 * gaussian(4, 60, 2).reshape(3, 20, 2)).reshape(-1, 2)
    found = k_means(points, 3, seed=0)
    np.testing.assert_allclose(found[np.lexsort(found.T)], centres[np.lexsort(centres.T)], atol=0.1)
    np.testing.assert_array_equal(found, k_means(points, 3, seed=0))
    assert len(k_means(np.repeat([[1.0], [2.0]], 5, axis=0), 3, seed=0)) == 2
    scattered = gaussian(5, 9, 1)
    cell = data_copying._squared(scattered, k_means(scattered, 9, seed=1)).argmin(axis=1)
    assert len(np.unique(cell)) == len(k_means(scattered, 9, seed=1))


@pytest.mark.parametrize("shape", [(50, 6), (6, 50)])
def test_principal_axes(shape):
    points = gaussian(6, *shape) * np.geomspace(4, 1, shape[1])
    centred = points - points.mean(axis=0)
    axes = principal_axes(centred, 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-10)
    expected = np.linalg.svd(centred)[2][:3]
    np.testing.assert_allclose(np.abs(expected @ axes), np.eye(3), atol=1e-6)
    assert principal_axes(centred, 64).shape[1] == (6 if shape[0] == 50 else 5)


def test_constant_features_are_defined():
    flat = np.full((12, 4), 0.3)
    assert score(flat, flat, flat)["c_t"] == 0.0
    assert principal_axes(np.zeros((5, 3)), 2).shape == (3, 1)


def test_bad_input_is_named():
    with pytest.raises(UserError, match="0 cells and 64 components"):
        fit_cells(gaussian(0), cells=0)
    with pytest.raises(UserError, match="features of 5 numbers meet training features of 6"):
        place(gaussian(0, 3, 5), fit_cells(gaussian(0)))
