"""Nearest neighbours: against all distances in float64, ties, rounding that float32 cannot see, variants."""

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.memorisation import neighbours
from medgen_jax.metrics.memorisation.neighbours import nearest
from medgen_jax.metrics.memorisation.thumbnails import pixel_features, pixel_variants, vary


def features(seed, n=30, d=5):
    return np.random.default_rng(seed).normal(size=(n, d))


def line(*values):
    return np.array(values, float)[:, None]


def all_pairs(queries, reference, k):
    distance = np.sqrt(np.sum(np.square(queries[:, None] - reference), axis=2))
    index = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distance, index, axis=1), index


def assert_same(found, expected):
    np.testing.assert_array_equal(found.index, expected[1])
    np.testing.assert_allclose(found.distance, expected[0], rtol=1e-14)


def test_points_on_a_line():
    found = nearest(line(0, 5), line(1, 3, 10), k=2)
    np.testing.assert_array_equal(found.index, [[0, 1], [1, 0]])
    np.testing.assert_array_equal(found.distance, [[1, 3], [2, 4]])
    alone = nearest(line(1, 3, 10), line(1, 3, 10), skip_self=True)
    np.testing.assert_array_equal(alone.index[:, 0], [1, 0, 1])
    np.testing.assert_array_equal(alone.distance[:, 0], [2, 2, 7])


@pytest.mark.parametrize("block", [32, neighbours.BLOCK_VALUES])
def test_agrees_with_all_pairs_in_any_block_size(block, monkeypatch):
    monkeypatch.setattr(neighbours, "QUERIES", 8)
    queries, reference = features(0, 21), features(1, 37)
    assert_same(nearest(queries, reference, k=3, block_values=block), all_pairs(queries, reference, 3))


def test_of_equally_near_ones_the_first_comes_first():
    """Forty copies of one point are more than the candidates kept."""
    reference = np.concatenate([line(*[7.0] * 40), line(*range(5))])
    found = nearest(line(7, 1.5), reference, k=3)
    np.testing.assert_array_equal(found.index, [[0, 1, 2], [41, 42, 40]])
    own = nearest(reference, reference, k=2, skip_self=True)
    np.testing.assert_array_equal(own.index[:3], [[1, 2], [0, 2], [0, 1]])


def test_order_below_the_rounding_of_float32():
    """All within 1e-9 of each other, far from the origin and beside an outlier: float32 sees one point."""
    rng = np.random.default_rng(0)
    near = 1 + 1e-9 * rng.permutation(60)[:, None]
    reference = np.concatenate([near, line(-500)])
    assert_same(nearest(line(1), reference, k=4), all_pairs(line(1), reference, 4))


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_values_beyond_the_range_of_float32(scale):
    queries, reference = features(2, 4), features(3, 20)
    found = nearest(scale * queries, scale * reference, k=2)
    expected = all_pairs(queries, reference, 2)
    np.testing.assert_array_equal(found.index, expected[1])
    np.testing.assert_allclose(found.distance / scale, expected[0], rtol=1e-12)


def test_a_copy_is_at_distance_zero_anywhere():
    reference = (1e6 + features(4)).astype(np.float32)
    found = nearest(reference[::-1], reference)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(30)[::-1])
    np.testing.assert_array_equal(found.distance, 0)


def test_variants_bring_altered_copies_near():
    images = np.random.default_rng(5).normal(size=(12, 8, 8, 1))
    reference, variants = pixel_features(images, size=8), pixel_variants(8, zooms=())
    queries = pixel_features(images[::-1, :, ::-1], size=8)
    found = nearest(queries, reference, k=2, variants=variants)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(12)[::-1])
    np.testing.assert_allclose(found.distance[:, 0], 0, atol=1e-6)
    assert nearest(queries, reference).distance.min() > 0.5
    every = np.concatenate([reference[None], vary(reference[None], variants[:, None])]).astype(float)
    least = np.sqrt(np.min(np.sum(np.square(queries[:, None, None] - every.swapaxes(0, 1)), axis=3), axis=2))
    np.testing.assert_allclose(found.distance, np.sort(least, axis=1)[:, :2], atol=1e-7)
    np.testing.assert_array_equal(nearest(reference, reference, variants=variants).distance, 0)
    own = nearest(reference, reference, variants=variants, skip_self=True, block_values=256)
    assert (own.index[:, 0] != np.arange(12)).all() and own.distance.min() > 0.1


def test_variants_among_many_copies():
    """More copies than candidates: the host's search knows variants as well."""
    image = np.random.default_rng(6).normal(size=(1, 4, 4, 1))
    reference = np.repeat(pixel_features(image, size=4), 30, axis=0)
    mirrored = pixel_features(image[:, :, ::-1], size=4)
    found = nearest(mirrored, reference, k=2, variants=pixel_variants(4, shift=0, zooms=()))
    np.testing.assert_array_equal(found.index, [[0, 1]])
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)


def test_constant_and_single_features():
    flat = np.full((20, 3), 0.1)
    found = nearest(flat, flat, k=2, skip_self=True)
    np.testing.assert_array_equal(found.distance, 0)
    np.testing.assert_array_equal(found.index[:3], [[1, 2], [0, 2], [0, 1]])
    assert nearest(line(4), line(1)).distance.item() == 3


def test_bad_input_is_named():
    good = features(7)
    with pytest.raises(UserError, match="queries have 4 numbers each and the reference 5"):
        nearest(good[:, :4], good)
    with pytest.raises(UserError, match="k is 30; 1 to 29"):
        nearest(good, good, k=30, skip_self=True)
    with pytest.raises(UserError, match="k is 0"):
        nearest(good, good, k=0)
    with pytest.raises(UserError, match="29 queries are not the 30"):
        nearest(good[1:], good, skip_self=True)
    with pytest.raises(UserError, match="do not fit features of 5 numbers"):
        nearest(good, good, variants=pixel_variants(4))
    broken = good.copy()
    broken[3] = np.inf
    with pytest.raises(UserError, match="reference features: number 3 holds NaN or infinity"):
        nearest(good, broken)
