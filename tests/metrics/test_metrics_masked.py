"""Quality inside a region: hand-computed regions, whole-image numbers as the limit, empty and odd regions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import column, pairs

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import masked, paired
from medgen_jax.metrics.ssim import multiscale_structural_similarity, similarity_maps

SHAPE = (4, 26, 24, 2)
RNG = np.random.default_rng(0)
TARGET = RNG.uniform(-0.8, 0.8, SHAPE).astype(np.float32)
PREDICTED = np.clip(0.8 * TARGET + 0.1 * RNG.normal(size=SHAPE), -1, 1).astype(np.float32)
ONES = np.ones(4, np.float32)

accumulate = jax.jit(functools.partial(masked.accumulate, scales=2))
maps = jax.jit(similarity_maps)


def measure(predicted, target, region, mask=ONES):
    return masked.compute(accumulate(masked.init(), predicted, target, region, mask))


def box(rows: slice, columns: slice) -> np.ndarray:
    region = np.zeros(SHAPE[:3], np.float32)
    region[:, rows, columns] = 1
    return region


def test_the_whole_image_as_region_gives_the_whole_images_numbers() -> None:
    got = measure(PREDICTED, TARGET, np.ones(SHAPE[:3], bool))
    whole = paired.compute(jax.jit(paired.accumulate)(paired.init(), PREDICTED, TARGET, ONES))
    for name in ("psnr", "psnr_mean", "ssim", "mae"):
        assert got[name] == pytest.approx(whole[name], rel=1e-5), name
    multiscale = jax.jit(functools.partial(multiscale_structural_similarity, scales=2))
    assert got["ms_ssim"] == pytest.approx(float(multiscale(PREDICTED, TARGET).mean()), rel=1e-5)
    assert [got[n] for n in ("images", "regions", "ssim_images", "ms_ssim_images")] == [4] * 4


def test_background_and_what_lies_in_it_do_not_count() -> None:
    """A background of .5 error outside, .2 inside: 20 dB and .2, even where the outside is not finite."""
    region = box(slice(3, 9), slice(4, 14))
    error = np.where(region > 0, 0.2, 0.5)[..., None]
    predicted = (TARGET * 0.5 + error).astype(np.float32)
    got = measure(predicted, TARGET * 0.5, region)
    assert got["psnr"] == pytest.approx(20, abs=1e-4)
    assert got["psnr_mean"] == pytest.approx(20, abs=1e-4)
    assert got["mae"] == pytest.approx(0.2, rel=1e-5)
    predicted[:, 22:, 21:] = np.nan
    spoilt = measure(predicted, TARGET * 0.5, region)
    assert spoilt["mae"] == pytest.approx(0.2, rel=1e-5)
    assert spoilt["ssim"] == pytest.approx(got["ssim"], rel=1e-6)


def test_ssim_is_the_mean_over_window_centres_inside() -> None:
    """Centres run from 5 to h - 6; of rows 3 to 12 only those from 5 on are one."""
    region = box(slice(3, 13), slice(8, 10))
    similarity, _ = maps(PREDICTED, TARGET)
    wanted = np.asarray(similarity)[:, 0:8, 3:5].mean((1, 2, 3)).mean()
    assert measure(PREDICTED, TARGET, region)["ssim"] == pytest.approx(wanted, rel=1e-5)


def test_coarser_centres_weigh_by_their_share() -> None:
    """Columns 11 and 12 are half of columns 5 and 6 of the second scale, whose centres are 5 and 6 of 12."""
    region = box(slice(10, 15), slice(11, 13))
    _, fine = maps(PREDICTED, TARGET)
    halves = [v.reshape(4, 13, 2, 12, 2, 2).mean((2, 4)) for v in (PREDICTED, TARGET)]
    coarse, _ = maps(*halves)
    rows = np.float32([1, 1, 0.5])[None, :, None, None]  # rows 10 to 14: 5 and 6 whole, 7 by half
    first = np.asarray(fine)[:, 5:10, 6:8].mean((1, 2, 3))
    second = (np.asarray(coarse)[:, 0:3, 0:2] * rows).sum((1, 2, 3)) / (2.5 * 2 * 2)
    wanted = (first**0.0448 * second**0.2856) ** (1.0001 / (0.0448 + 0.2856))
    assert measure(PREDICTED, TARGET, region)["ms_ssim"] == pytest.approx(wanted.mean(), rel=1e-5)


def test_an_image_counts_only_where_its_region_reaches() -> None:
    region = box(slice(8, 18), slice(8, 18))
    region[1] = 0  # empty: counts for nothing
    region[2] = 0
    region[2, :3] = 1  # along the border: pixels but no window centre
    got = measure(PREDICTED, TARGET, region)
    assert [got[n] for n in ("images", "regions", "ssim_images", "ms_ssim_images")] == [4, 3, 2, 2]
    kept = measure(PREDICTED, TARGET, region, np.float32([1, 0, 0, 1]))
    assert got["ssim"] == pytest.approx(kept["ssim"], rel=1e-12)
    hugging = measure(PREDICTED, TARGET, region, np.float32([0, 1, 1, 0]))
    assert "ssim" not in hugging
    assert "ms_ssim" not in hugging
    assert hugging["regions"] == 1
    assert np.isfinite(hugging["psnr"])


def test_shards_merge_to_the_stream() -> None:
    region = box(slice(6, 20), slice(5, 19))
    half = [(PREDICTED[i::2].repeat(2, 0), TARGET[i::2].repeat(2, 0), region, np.float32([1, 0, 1, 0])) for i in (0, 1)]
    stream = accumulate(accumulate(masked.init(), *half[0]), *half[1])
    shards = [accumulate(masked.init(), *batch) for batch in half]
    assert masked.compute(masked.merge(*shards)) == pytest.approx(masked.compute(stream), rel=1e-12)
    assert masked.compute(stream)["images"] == 4


def test_constant_images_and_non_finite_values_inside() -> None:
    region = box(slice(6, 20), slice(5, 19))
    flat = np.full(SHAPE, 0.25, np.float32)
    got = measure(flat, flat, region)
    assert got["psnr"] == paired.PSNR_CAP
    assert got["ssim"] == pytest.approx(1, abs=1e-5)
    spoilt = PREDICTED.copy()
    spoilt[0, 10, 10, 0] = np.inf
    got = measure(spoilt, TARGET, region)
    assert not np.isfinite(got["psnr"])
    assert np.isnan(got["ssim"])


def test_bad_input_is_named() -> None:
    acc, image, region, one = masked.init(), jnp.zeros((1, 30, 30, 1)), jnp.ones((1, 30, 30)), ONES[:1]
    with pytest.raises(UserError, match="no image pair was added"):
        masked.compute(acc)
    with pytest.raises(UserError, match=r"regions are \(1, 30, 29\), the images \(1, 30, 30, 1\)"):
        masked.accumulate(acc, image, image, region[:, :, 1:], one)
    with pytest.raises(UserError, match=r"predicted images are \(1, 29, 30, 1\)"):
        masked.accumulate(acc, image[:, 1:], image, region, one)
    with pytest.raises(UserError, match="at most 2 fit"):
        masked.accumulate(acc, image, image, region, one)
    empty = accumulate(acc, PREDICTED, TARGET, np.zeros(SHAPE[:3]), ONES)
    with pytest.raises(UserError, match="regions of all 4 images are empty"):
        masked.compute(empty)


def test_real_images_whole_as_torchmetrics_sees_them(shared) -> None:
    first, second, rows = pairs(shared, "xray")
    acc = jax.jit(masked.accumulate)(masked.init(), second, first, np.ones(first.shape[:3]), np.ones(len(first)))
    got = masked.compute(acc)
    assert got["ms_ssim"] == pytest.approx(column(rows, "torchmetrics_ms_ssim_whole_windows").mean(), abs=1e-4)
    assert got["ssim"] == pytest.approx(column(rows, "skimage_ssim").mean(), abs=1e-4)
    for name in ("skimage_psnr", "torchmetrics_psnr"):
        assert got["psnr_mean"] == pytest.approx(column(rows, name).mean(), abs=1e-4)
