"""Filters fitted to pairs: recovered where they made the pairs, useless where there is nothing to mend."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import restoration
from medgen_jax.metrics.restoration import Mask
from medgen_jax.ops import filters


def textures(count, seed=0, size=(48, 40), channels=1):
    """Smooth random images within [-0.5, 0.5]."""
    noise = np.random.default_rng(seed).normal(size=(count, *size, channels)).astype(np.float32)
    smooth = np.asarray(filters.gaussian_blur(jnp.asarray(noise), 1.0))
    return smooth / (2 * np.abs(smooth).max())


def pairs_of(change, **options):
    images = textures(4, **options)
    return [(x, np.asarray(change(x[None]))[0]) for x in images]


def test_a_mask_that_made_the_targets_is_found():
    pairs = pairs_of(lambda x: restoration.unsharp(x, Mask(2.0, 0.7)), channels=3)
    mask, _ = restoration.fit(pairs)
    assert mask.sigma == 2.0 and mask.amount == pytest.approx(0.7, abs=1e-4)
    rows = restoration.restoration_baselines(pairs, pairs)
    assert rows["unsharp mask"]["psnr"] > 80 > 40 > rows["input unchanged"]["psnr"]


def test_a_filter_that_made_the_targets_is_found():
    def gain(radius):
        return 1 + 2 * radius

    pairs = pairs_of(lambda x: filters.filter_image(x, gain))
    _, gains = restoration.fit(pairs)
    middles = (np.arange(restoration.BANDS) + 0.5) * np.hypot(0.5, 0.5) / restoration.BANDS
    np.testing.assert_allclose(gains[2:50], gain(middles[2:50]), rtol=0.02)
    rows = restoration.restoration_baselines(pairs, pairs)
    assert rows["Wiener filter"]["psnr"] > rows["unsharp mask"]["psnr"] > rows["input unchanged"]["psnr"]
    assert rows["Wiener filter"]["psnr"] > 45


def test_where_nothing_is_to_be_mended_nothing_is_changed():
    pairs = pairs_of(lambda x: x)
    mask, gains = restoration.fit(pairs)
    assert mask.amount == 0
    np.testing.assert_allclose(gains, 1, atol=1e-4)
    assert {row["psnr"] for row in restoration.restoration_baselines(pairs, pairs).values()} == {100.0}


def test_targets_that_are_blurred_ask_for_no_sharpening():
    pairs = pairs_of(lambda x: filters.gaussian_blur(x, 2.0))
    mask, gains = restoration.fit(pairs)
    assert mask.amount == 0 and gains[40] < 0.1


def test_integers_blank_images_and_empty_sets():
    blank = np.full((16, 16), 200, np.uint8)
    rows = restoration.restoration_baselines([(blank, blank)], [(blank, blank)])
    assert all(np.isfinite(row["psnr"]) for row in rows.values())
    for train, test in (([], [(blank, blank)]), ([(blank, blank)], [])):
        with pytest.raises(UserError, match="split .* is empty|there are no"):
            restoration.restoration_baselines(train, test)
