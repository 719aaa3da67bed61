"""Colour difference: the published test pairs, scikit-image, grey and equal colours."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from real_pairs import column, pairs

from medgen_jax.metrics.colour_difference import delta_e_76, delta_e_2000
from medgen_jax.ops.colour import rgb_to_lab

difference = jax.jit(delta_e_2000)

# Sharma, Wu and Dalal 2005, table 1: two Lab colours and their CIEDE2000.
PUBLISHED = [
    (50, 2.6772, -79.7751, 50, 0, -82.7485, 2.0425),
    (50, 3.1571, -77.2803, 50, 0, -82.7485, 2.8615),
    (50, 2.8361, -74.0200, 50, 0, -82.7485, 3.4412),
    (50, -1.3802, -84.2814, 50, 0, -82.7485, 1.0000),
    (50, 0, 0, 50, -1, 2, 2.3669),
    (50, 2.4900, -0.0010, 50, -2.4900, 0.0009, 7.1792),
    (50, 2.4900, -0.0010, 50, -2.4900, 0.0011, 7.2195),
    (50, 2.4900, -0.0010, 50, -2.4900, 0.0012, 7.2195),
    (50, -0.0010, 2.4900, 50, 0.0009, -2.4900, 4.8045),
    (50, -0.0010, 2.4900, 50, 0.0011, -2.4900, 4.7461),
    (50, 2.5, 0, 50, 0, -2.5, 4.3065),
    (50, 2.5, 0, 73, 25, -18, 27.1492),
    (50, 2.5, 0, 61, -5, 29, 22.8977),
    (50, 2.5, 0, 56, -27, -3, 31.9030),
    (50, 2.5, 0, 58, 24, 15, 19.4535),
    (50, 2.5, 0, 50, 3.1736, 0.5854, 1.0000),
    (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
    (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
    (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
    (35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645),
    (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
    (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
    (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
    (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
    (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
    (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
]


def test_published_pairs_in_both_directions() -> None:
    table = np.array(PUBLISHED)
    first, second, wanted = table[:, :3].astype(np.float32), table[:, 3:6].astype(np.float32), table[:, 6]
    np.testing.assert_allclose(difference(first, second), wanted, atol=1e-4)
    np.testing.assert_allclose(difference(second, first), wanted, atol=1e-4)


def test_random_colours_as_scikit_image() -> None:
    reference = pytest.importorskip("skimage.color")
    rng = np.random.default_rng(0)
    first = rng.uniform((0, -80, -80), (100, 80, 80), (26, 3)).astype(np.float32)
    second = first + rng.normal(0, 8, first.shape).astype(np.float32)
    wide = first.astype(np.float64), second.astype(np.float64)
    np.testing.assert_allclose(difference(first, second), reference.deltaE_ciede2000(*wide), atol=1e-4)
    np.testing.assert_allclose(delta_e_76(first, second), reference.deltaE_cie76(*wide), rtol=1e-6)


def test_greys_differ_in_lightness_alone_and_gradients_stay_finite() -> None:
    """Between L 40 and 60 the lightness weight is 1."""
    grey = np.zeros((26, 3), np.float32)
    grey[:, 0] = 60
    darker = grey - np.float32([20, 0, 0])
    np.testing.assert_allclose(difference(grey, darker), 20, rtol=1e-6)
    np.testing.assert_array_equal(difference(grey, grey), 0)
    slope = jax.jit(jax.grad(lambda lab: delta_e_2000(lab, grey).sum()))
    assert np.isfinite(slope(grey)).all()
    assert np.isfinite(slope(darker)).all()
    darker[0] = np.nan
    assert np.isnan(difference(grey, darker)[0])


def test_real_tiles_as_scikit_image(shared) -> None:
    first, second, rows = pairs(shared, "he")
    lab = jax.jit(rgb_to_lab)
    labs = [lab(image.astype(np.float32) / 255) for image in (first, second)]
    for name, function in (("76", jax.jit(delta_e_76)), ("2000", difference)):
        got = np.asarray(function(*labs)).mean((1, 2))
        np.testing.assert_allclose(got, column(rows, f"skimage_delta_e_{name}"), atol=1e-4)
