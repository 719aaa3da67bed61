"""Thumbnails: area averages by hand, what they are free of, variants as matrices, bad input."""

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.memorisation.thumbnails import linear_resampling, pixel_features, pixel_variants, vary


def images(seed, n=3, h=12, w=8, c=1):
    return np.random.default_rng(seed).normal(size=(n, h, w, c)).astype(np.float32)


def test_area_average_by_hand():
    """Five pixels on two: the middle one counts half on either side. Two values become -+1/sqrt(2), per axis."""
    row = np.array([0.0, 0, 4, 4, 4])
    image = np.tile(row, (2, 1))[None, :, :, None]  # columns average to 0.8 and 4
    expected = np.array([-1, 1, -1, 1]) / 2
    np.testing.assert_allclose(pixel_features(image, size=2)[0], expected, atol=1e-7)
    uneven = np.array([[[0.0, 0, 10, 0, 0], [0, 0, 0, 0, 0]]])[..., None]  # the ten is shared by both columns
    np.testing.assert_allclose(pixel_features(uneven, size=2)[0], np.array([1, 1, -1, -1]) / 2, atol=1e-7)


def test_distance_is_that_of_the_correlation():
    a, b = images(0, 1, 8, 8), images(1, 1, 8, 8)
    x, y = (pixel_features(image, size=8)[0].astype(float) for image in (a, b))
    r = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert np.sum((x - y) ** 2) == pytest.approx(2 * (1 - r), rel=1e-5)


def test_brightness_contrast_type_and_block_do_not_matter(monkeypatch):
    raw = np.random.default_rng(0).integers(0, 100, (5, 16, 16, 2)).astype(np.uint8)
    expected = pixel_features(raw, size=4)
    np.testing.assert_allclose(pixel_features(raw.astype(np.uint16) * 256 + 7, size=4), expected, atol=1e-6)
    monkeypatch.setattr("medgen_jax.metrics.memorisation.thumbnails.BLOCK_VALUES", 1)
    np.testing.assert_array_equal(pixel_features(raw, size=4), expected)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)


def test_images_without_contrast_are_zero():
    flat = np.stack([np.full((9, 7, 1), value) for value in (0.0, 0.3, 65535.0)])
    np.testing.assert_array_equal(pixel_features(flat, size=4), 0)
    assert np.linalg.norm(pixel_features(flat + 1e-3 * images(0, 3, 9, 7), size=4)[1]) == pytest.approx(1)


def test_resampling_by_hand():
    np.testing.assert_array_equal(linear_resampling(3, 3, 0, 3), np.eye(3))
    np.testing.assert_array_equal(linear_resampling(3, 3, 1, 3), np.eye(3)[[1, 2, 2]])
    np.testing.assert_allclose(linear_resampling(4, 2, 1, 2), np.eye(4)[[1, 2]])
    np.testing.assert_allclose(linear_resampling(2, 4, 0, 2)[1], [0.75, 0.25])
    np.testing.assert_array_equal(linear_resampling(1, 2, 0, 1), np.ones((2, 1)))


def test_variants_are_flips_shifts_and_zooms():
    assert pixel_variants().shape == (2 * 9 * 2 - 1, 2, 32, 32)
    assert pixel_variants(4, flips="none", shift=0, zooms=()).shape == (0, 2, 4, 4)
    square = images(0, 1, 6, 6)
    thumbnail = pixel_features(square, size=6)

    def among(image, variants):
        return np.abs(vary(thumbnail, variants) - pixel_features(image, size=6)).max(axis=1).min() < 1e-6

    flip, both = (pixel_variants(6, flips=flips, shift=0, zooms=()) for flips in ("horizontal", "both"))
    assert len(flip) == 1 and len(both) == 3
    assert among(square[:, :, ::-1], flip) and not among(square[:, ::-1], flip)
    assert among(square[:, ::-1], both) and among(square[:, ::-1, ::-1], both)
    moved = np.pad(square, ((0, 0), (1, 0), (1, 0), (0, 0)), mode="edge")[:, :6, :6]
    shifts = pixel_variants(6, flips="horizontal", zooms=())
    assert among(moved, shifts) and among(moved[:, :, ::-1], shifts) and not among(moved, flip)


def test_zoom_by_hand():
    """The middle half of a ramp is a ramp: after scaling to length 1 the inner differences are even again."""
    ramp = pixel_features(np.tile(np.arange(8.0), (8, 1))[None, :, :, None], size=8)
    zoomed = vary(ramp, pixel_variants(8, flips="none", shift=0, zooms=(0.5,)))[0]
    np.testing.assert_allclose(zoomed, ramp[0], atol=1e-6)
    edge = np.where(np.arange(8) < 6, 0.0, 1.0)  # beyond the middle half, where the last pixel counts a quarter
    seen = linear_resampling(8, 8, 2, 4) @ edge
    np.testing.assert_allclose(seen, [0, 0, 0, 0, 0, 0, 0, 0.25])


def test_bad_input_is_named():
    with pytest.raises(UserError, match=r"shape \(3, 12, 8\); \(images, height"):
        pixel_features(images(0)[..., 0])
    with pytest.raises(UserError, match="shape"):
        pixel_features(images(0)[:0])
    broken = images(0)
    broken[2, 0, 0] = np.nan
    with pytest.raises(UserError, match="image 2, counted from 0, holds NaN"):
        pixel_features(broken)
    with pytest.raises(UserError, match="size is 1"):
        pixel_features(images(0), size=1)
    with pytest.raises(UserError, match="flips is 'vertical'"):
        pixel_variants(flips="vertical")
    for options in (dict(shift=-1), dict(zooms=(1.1,))):
        with pytest.raises(UserError, match="0 to 31"):
            pixel_variants(**options)
