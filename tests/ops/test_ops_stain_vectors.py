"""Stain vectors: recovered from mixtures, Macenko's recipe in float64 on real tiles, blank tiles, gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import cut

from medgen_jax.core.errors import UserError
from medgen_jax.ops.stain_vectors import REFERENCE, WHITE, stain_density, stain_vectors

find = jax.jit(stain_vectors)

STAINS = np.array([[0.62, 0.70, 0.35], [0.30, 0.85, 0.43]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


def mixture(seed: int = 0, stains: np.ndarray = STAINS, alone: int = 3) -> np.ndarray:
    """Random amounts of two stains, (1, 24, 24, 3); each stands alone in some of the 24 rows."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.8, 1.6, (24, 24, 2))
    amounts[:alone, :, 1] = 0
    amounts[24 - alone :, :, 0] = 0
    return (np.exp(-amounts @ stains) * WHITE - 1 / 255)[None].astype(np.float32)


def turned(stain: np.ndarray, degrees: float) -> np.ndarray:
    """The stain turned towards the other one of `STAINS`."""
    across = np.cross(np.cross(stain, STAINS[0]), stain)
    angle = np.deg2rad(degrees)
    return np.cos(angle) * stain + np.sin(angle) * across / np.linalg.norm(across)


def across_the_mean() -> np.ndarray:
    """Densities that vary in the two directions across their mean, as no mixture of two stains does, (1, 24, 24, 3)."""
    rng = np.random.default_rng(5)
    aside = STAINS[1] - STAINS[0]
    mean = STAINS.sum(0) - (STAINS.sum(0) @ aside) / (aside @ aside) * aside
    directions = np.stack([aside, np.cross(mean, aside)])
    density = mean + rng.normal(0, [0.2, 0.1], (24, 24, 2)) @ directions
    return (np.exp(-density) * WHITE - 1 / 255)[None].astype(np.float32)


def macenko(rgb: np.ndarray, beta: float = 0.15, alpha: float = 1.0) -> np.ndarray:
    """The recipe of the paper in float64: eigenvectors, angles in their plane, percentiles."""
    density = -np.log((rgb.reshape(-1, 3).astype(np.float64) + 1 / 255) / WHITE)
    density = density[(density > beta).all(-1)]
    plane = np.linalg.eigh(np.cov(density.T))[1][:, 1:]
    plane = plane * np.where(plane[:1] < 0, -1, 1)
    angles = np.arctan2(*(density @ plane).T[::-1])
    low, high = np.percentile(angles, [alpha, 100 - alpha])
    vectors = [plane @ [np.cos(angle), np.sin(angle)] for angle in (low, high)]
    return np.array(sorted(vectors, key=lambda v: -v[0]))


def test_density_is_that_of_macenkos_code() -> None:
    levels = np.array([0, 10, 239, 255])
    got = stain_density(jnp.asarray(levels / 255, jnp.float32))
    np.testing.assert_allclose(got, -np.log((levels + 1) / 240), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["he_cmu1", "he_bright"])
def test_real_tiles_as_the_recipe(shared, name: str) -> None:
    rgb = cut(shared, name)[None].astype(np.float32) / 255
    got = find(rgb)
    assert bool(got.ok[0])
    np.testing.assert_allclose(got.vectors[0], macenko(rgb), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(got.vectors[0], axis=-1), 1, atol=1e-6)


def test_stains_of_a_mixture_are_recovered_beside_tiles_that_have_none() -> None:
    good = mixture()
    one_stain = mixture(1, np.stack([STAINS[1], STAINS[1]]))
    close = mixture(1, np.stack([STAINS[1], turned(STAINS[1], 1.5)]))
    noise = 0.93 + 0.01 * np.random.default_rng(2).normal(size=good.shape)
    blank = [np.full_like(good, value) for value in (0.0, 0.5, 1.0, np.nan, np.inf)]
    batch = np.concatenate([good, one_stain, close, across_the_mean(), noise.astype(np.float32), *blank])
    got = find(batch, region=np.ones(batch.shape[:3], bool))
    np.testing.assert_array_equal(got.ok, [True] + [False] * 9)
    np.testing.assert_allclose(got.vectors[0], STAINS, atol=2e-4)
    np.testing.assert_array_equal(got.vectors[1:], np.broadcast_to(REFERENCE, (9, 2, 3)))


def test_only_the_region_counts() -> None:
    rgb = np.repeat(mixture(), 10, axis=0)
    rgb[:, :, 12:] = np.random.default_rng(3).uniform(0, 1, (10, 24, 12, 3))
    region = np.zeros((10, 24, 24), bool)
    region[0, :, :12] = True
    got = find(rgb, region=region)
    np.testing.assert_allclose(got.vectors[0], STAINS, atol=2e-3)
    np.testing.assert_array_equal(got.ok, region.any((1, 2)))


def test_gradients_are_finite_and_right() -> None:
    rng = np.random.default_rng(4)
    # Many equal angles at either end would leave the extremes without a derivative.
    speckled = mixture(alone=0) * (1 + 0.02 * rng.normal(size=(1, 24, 24, 3)))
    flat = [np.full((1, 24, 24, 3), colour) for colour in (1.0, 0.0, (0.78, 0.31, 0.45))]
    tiles = np.concatenate([speckled, *flat]).astype(np.float32)
    region = np.ones(tiles.shape[:3], bool)
    region[3] = False
    region[3, 0, 0] = True  # a single pixel has no spread at all
    probe = rng.normal(size=(4, 2, 3)).astype(np.float32)

    value = jax.jit(jax.value_and_grad(lambda rgb: jnp.sum(stain_vectors(rgb, region=region).vectors * probe)))
    slope = np.asarray(value(tiles)[1])
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[1:], 0)
    assert np.abs(slope[0]).max() > 0
    # Along a change of gain per channel, which moves every pixel and so the plane and the angles.
    direction = np.zeros_like(tiles)
    direction[0] = tiles[0] * np.float32([0.3, -0.2, 0.1])
    step = 1e-2
    ahead, behind = (float(value(tiles + sign * step * direction)[0]) for sign in (1, -1))
    quotient = (ahead - behind) / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(quotient, rel=5e-3)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match=r"uint8 of shape \(1, 4, 4, 3\)"):
        stain_vectors(jnp.zeros((1, 4, 4, 3), jnp.uint8))
    with pytest.raises(UserError, match=r"\(4, 4, 3\)"):
        stain_vectors(jnp.zeros((4, 4, 3)))
    with pytest.raises(UserError, match=r"regions are \(1, 4, 3\)"):
        stain_vectors(jnp.zeros((1, 4, 4, 3)), region=jnp.ones((1, 4, 3)))
