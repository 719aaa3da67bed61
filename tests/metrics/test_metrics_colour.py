"""Colour and structure of stained pairs: known shifts, lost stains, blank targets, shards, real tiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import cut

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import colour
from medgen_jax.ops.stain_vectors import WHITE

accumulate = jax.jit(colour.accumulate)
ONES = np.ones(2, np.float32)

STAINS = np.array([[0.62, 0.70, 0.35], [0.30, 0.85, 0.43]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


def stained(stains: np.ndarray = STAINS, seed: int = 0) -> np.ndarray:
    """Two tiles of random mixtures in [-1, 1], the stains alone at their borders."""
    amounts = np.random.default_rng(seed).uniform(0.8, 1.6, (2, 24, 24, 2))
    amounts[:, :3, :, 1] = 0
    amounts[:, -3:, :, 0] = 0
    return (2 * (np.exp(-amounts @ stains) * WHITE - 1 / 255) - 1).astype(np.float32)


def measure(predicted: np.ndarray, target: np.ndarray, mask: np.ndarray = ONES) -> dict[str, float]:
    return colour.compute(accumulate(colour.init(), predicted, target, mask))


def test_equal_images() -> None:
    got = measure(stained(), stained())
    assert got["delta_e_76"] == got["delta_e_2000"] == 0
    assert got["haematoxylin_angle"] == pytest.approx(0, abs=1e-5)
    assert got["grey_pearson"] == pytest.approx(1, abs=1e-6)
    assert got["stains_lost"] == 0
    assert [got[n] for n in ("images", "tissue", "stained", "both_stained")] == [2] * 4


def test_a_turned_stain_shows_its_angle_and_keeps_structure() -> None:
    """Eosin turned by 5 degrees inside the plane of the two stains, away from haematoxylin."""
    normal = np.cross(*STAINS)
    across = np.cross(normal / np.linalg.norm(normal), STAINS[1])
    turn = np.deg2rad(5.0)
    turned = np.stack([STAINS[0], np.cos(turn) * STAINS[1] + np.sin(turn) * across])
    got = measure(stained(turned), stained())
    assert got["eosin_angle"] == pytest.approx(5, abs=0.02)
    assert got["haematoxylin_angle"] == pytest.approx(0, abs=0.02)
    assert got["grey_pearson"] > 0.97
    assert 0.5 < got["delta_e_2000"] < got["delta_e_76"]


def test_difference_counts_on_the_targets_tissue_alone() -> None:
    """Half of the target is glass, where the prediction may hold anything."""
    target = np.ones((2, 24, 24, 3), np.float32)
    target[:, :12] = np.float32([0.6, -0.2, 0.4])
    predicted = target.copy()
    predicted[:, 12:] = np.float32([0.1, -0.7, 0.5])
    got = measure(predicted, target)
    assert got["delta_e_76"] == got["delta_e_2000"] == 0
    predicted = target.copy()
    predicted[:, :12] = np.float32([0.5, -0.2, 0.4])
    reference = pytest.importorskip("skimage.color")
    labs = [reference.rgb2lab((np.array(c) + 1) / 2) for c in ((0.6, -0.2, 0.4), (0.5, -0.2, 0.4))]
    got = measure(predicted, target)
    assert got["delta_e_76"] == pytest.approx(reference.deltaE_cie76(*labs), abs=1e-4)
    assert got["delta_e_2000"] == pytest.approx(reference.deltaE_ciede2000(*labs), abs=1e-4)


def test_lost_stains_and_blank_targets_are_counted_not_hidden() -> None:
    target = stained()
    predicted = target.copy()
    predicted[1] = 0.9  # a blank answer
    got = measure(predicted, target)
    assert got["stains_lost"] == 0.5
    assert got["both_stained"] == 1
    assert got["haematoxylin_angle"] == pytest.approx(0, abs=1e-5)
    assert got["grey_pearson"] == pytest.approx(0.5, abs=1e-5)
    blank = np.ones_like(target)
    got = measure(blank, blank)
    assert got == {"grey_pearson": 0, "images": 2, "tissue": 0, "stained": 0, "both_stained": 0}


def test_masked_records_never_count_and_nan_shows() -> None:
    target, predicted = stained(), stained(seed=1)
    predicted[1, 0, 0, 0] = np.nan
    kept = measure(predicted, target, np.float32([1, 0]))
    assert all(np.isfinite(v) for v in kept.values())
    assert kept["images"] == 1
    got = measure(predicted, target)
    assert all(np.isnan(got[name]) for name in ("delta_e_2000", "grey_pearson", "eosin_angle"))


def test_shards_merge_to_the_stream() -> None:
    batches = [(stained(seed=s + 1), stained(seed=s), ONES) for s in range(4)]
    stream = colour.init()
    for batch in batches:
        stream = accumulate(stream, *batch)
    a, b, c, d = (accumulate(colour.init(), *batch) for batch in batches)
    merged = colour.merge(colour.merge(d, b), colour.merge(a, c))
    assert colour.compute(merged) == pytest.approx(colour.compute(stream), rel=1e-12)


def test_small_angles_are_not_lost() -> None:
    a = jnp.asarray([[1.0, 0, 0], [1, 0, 0], [1, 0, 0]])
    b = jnp.asarray([[1.0, 1e-5, 0], [0, 0, 2], [-1, 0, 0]])
    np.testing.assert_allclose(colour.vector_angle(a, b), [np.rad2deg(1e-5), 90, 180], rtol=1e-5)


def test_bad_input_is_named() -> None:
    acc, tiles = colour.init(), jnp.zeros((1, 8, 8, 3))
    with pytest.raises(UserError, match="no image pair was added"):
        colour.compute(acc)
    with pytest.raises(UserError, match=r"\(1, 8, 8, 1\)"):
        colour.accumulate(acc, tiles[..., :1], tiles[..., :1], ONES[:1])


def test_real_tile_with_its_red_dimmed(shared) -> None:
    """Less red light is more of what haematoxylin absorbs: both stains turn, structure stays."""
    tile = cut(shared, "he_cmu1")
    target = np.stack([tile[:24, :24], tile[100:124, 100:124]])
    dimmed = np.round(target * np.array([0.9, 1, 1])).astype(np.uint8)
    got = measure(*((image / 127.5 - 1).astype(np.float32) for image in (dimmed, target)))
    assert got["both_stained"] == 2
    assert got["grey_pearson"] > 0.99
    assert 1 < got["delta_e_2000"] < 12
    assert 0.5 < got["eosin_angle"] < 20
    assert 0.5 < got["haematoxylin_angle"] < 20
