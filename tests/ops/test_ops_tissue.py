"""Tissue: thresholds by hand, Otsu as scikit-image's, blank and broken tiles."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import cut

from medgen_jax.core.errors import UserError
from medgen_jax.ops.tissue import otsu_threshold, tissue_mask

find = jax.jit(tissue_mask, static_argnames="otsu")
threshold = jax.jit(functools.partial(otsu_threshold, low=0.0, high=1.0))

GLASS, PINK, INK, PALE = (0.95, 0.95, 0.95), (0.8, 0.5, 0.7), (0.2, 0.2, 0.2), (0.93, 0.88, 0.92)


def tile(*colours: tuple[float, ...]) -> np.ndarray:
    """Stripes of 8 columns each, (1, 8, 8 n, 3)."""
    return np.concatenate([np.full((1, 8, 8, 3), colour, np.float32) for colour in colours], axis=2)


def test_tissue_absorbs_and_has_a_colour() -> None:
    got = find(tile(GLASS, PINK, INK, PALE))
    stripes = np.asarray(got.mask).reshape(8, 4, 8)
    assert stripes[:, 1].all()
    assert not stripes[:, [0, 2, 3]].any()
    assert float(got.fraction[0]) == 0.25
    assert bool(got.ok[0])


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, np.nan])
def test_blank_and_broken_tiles_are_not_ok(value: float) -> None:
    got = find(np.full((1, 8, 32, 3), value, np.float32))
    assert not np.asarray(got.mask).any()
    assert float(got.fraction[0]) == 0
    assert not bool(got.ok[0])


def test_otsu_raises_the_threshold_to_the_gap() -> None:
    """Pale stain (density .29) and strong stain (density .85) under glass: only the strong is above the gap."""
    pale, strong = (0.85, 0.65, 0.75), (0.6, 0.3, 0.45)
    plain, otsu = (find(tile(GLASS, GLASS, pale, strong), otsu=otsu) for otsu in (False, True))
    assert float(plain.fraction[0]) == 0.5
    assert float(otsu.fraction[0]) == 0.25
    assert np.asarray(otsu.mask)[0, :, 24:].all()


def test_otsu_parts_the_pixels_as_scikit_image_does() -> None:
    threshold_otsu = pytest.importorskip("skimage.filters").threshold_otsu
    rng = np.random.default_rng(0)
    levels = np.clip(np.concatenate([rng.normal(70, 20, 900), rng.normal(170, 30, 700)]), 0, 255).round()
    image = levels.reshape(1, 40, 40)
    got = float(threshold((image / 256).astype(np.float32))[0])
    wanted = threshold_otsu(image.astype(np.uint8))
    np.testing.assert_array_equal(image / 256 >= got, image > wanted)


def test_otsu_of_one_level_and_of_values_beyond_the_range() -> None:
    image = np.stack([np.full((4, 4), 0.5), np.where(np.eye(4) > 0, 7.0, -3.0)]).astype(np.float32)
    got = np.asarray(threshold(image))
    assert got[0] == pytest.approx(129 / 256)
    assert 0 < got[1] < 1


def test_real_tile_is_tissue_but_for_its_holes(shared) -> None:
    rgb = cut(shared, "he_cmu1")[None].astype(np.float32) / 255
    got = find(rgb)
    assert 0.9 < float(got.fraction[0]) < 1
    assert rgb[np.asarray(got.mask)].mean() < rgb[~np.asarray(got.mask)].mean() - 0.1


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"shape \(8, 8, 3\)"):
        tissue_mask(jnp.zeros((8, 8, 3)))
    with pytest.raises(UserError, match="dtype uint8"):
        tissue_mask(jnp.zeros((1, 8, 8, 3), jnp.uint8))
