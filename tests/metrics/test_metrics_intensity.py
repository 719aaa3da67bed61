"""Normalised median intensity: by hand, its spread over a set, tiles without tissue."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import cut

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import intensity

accumulate = jax.jit(intensity.accumulate)
ONES = np.ones(2, np.float32)


def tiles(seed: int) -> np.ndarray:
    """Two pink tiles in [-1, 1], half of each glass."""
    rng = np.random.default_rng(seed)
    rgb = rng.uniform(0.3, 0.8, (2, 16, 20, 1)) * np.array([1, 0.6, 0.9])
    rgb[:, 8:] = 1
    return (2 * rgb - 1).astype(np.float32)


def by_hand(image: np.ndarray) -> float:
    tissue = ((image[:8].astype(np.float64) + 1) / 2).mean(-1)
    return float(np.median(tissue) / np.percentile(tissue, 95))


def test_mean_and_spread_by_hand() -> None:
    batches = [tiles(seed) for seed in range(4)]
    wanted = np.array([by_hand(image) for batch in batches for image in batch])
    shards = [accumulate(intensity.init(), batch, ONES) for batch in batches]
    got = intensity.compute(functools.reduce(intensity.merge, shards))
    assert got["nmi"] == pytest.approx(wanted.mean(), rel=1e-6)
    assert got["nmi_std"] == pytest.approx(wanted.std(ddof=1), rel=1e-4)
    assert got["nmi_cv"] == pytest.approx(wanted.std(ddof=1) / wanted.mean(), rel=1e-4)
    assert got["images"] == got["tissue"] == 8
    stream = intensity.init()
    for batch in reversed(batches):
        stream = accumulate(stream, batch, ONES)
    assert intensity.compute(stream) == pytest.approx(got, rel=1e-12)


def test_equal_tiles_have_no_spread() -> None:
    same = np.repeat(tiles(0)[:1], 2, axis=0)
    got = intensity.compute(accumulate(intensity.init(), same, ONES))
    assert got["nmi_cv"] == pytest.approx(0, abs=1e-6)


def test_glass_padding_and_nan() -> None:
    images = tiles(1)
    images[1] = 1
    got = intensity.compute(accumulate(intensity.init(), images, ONES))
    assert got == pytest.approx({"nmi": by_hand(images[0]), "images": 2, "tissue": 1}, rel=1e-6)
    images[1] = np.nan
    assert intensity.compute(accumulate(intensity.init(), images, np.float32([1, 0])))["images"] == 1
    assert np.isnan(intensity.compute(accumulate(intensity.init(), images, ONES))["nmi"])
    with pytest.raises(UserError, match="none of 1 images shows tissue"):
        intensity.compute(accumulate(intensity.init(), np.ones_like(images), np.float32([1, 0])))
    with pytest.raises(UserError, match=r"\(1, 8, 8, 1\)"):
        intensity.accumulate(intensity.init(), jnp.zeros((1, 8, 8, 1)), ONES[:1])


def test_a_real_tile_by_numpy(shared) -> None:
    image = cut(shared, "he_cmu1")
    nmi, ok = jax.jit(intensity.normalised_median_intensity)(image[None])
    rgb = image.astype(np.float64) / 255
    density, chroma = -np.log(np.maximum(rgb, 1 / 255)).mean(-1), 1 - rgb.min(-1) / rgb.max(-1)
    tissue = rgb.mean(-1)[(density > 0.15) & (chroma > 0.05)]
    assert bool(ok[0])
    assert float(nmi[0]) == pytest.approx(np.median(tissue) / np.percentile(tissue, 95), abs=1e-4)
    assert 0.5 < float(nmi[0]) < 1
