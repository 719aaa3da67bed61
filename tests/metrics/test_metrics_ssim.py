"""SSIM and MS-SSIM: closed forms, other packages on real images, images that are too small."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from real_pairs import column, pairs

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import ssim
from medgen_jax.ops.scale import to_unit

single = jax.jit(ssim.structural_similarity)
multiscale = jax.jit(ssim.multiscale_structural_similarity, static_argnames="scales")


def pair(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    return x, np.clip(0.7 * x + 0.2 * rng.normal(size=shape), -1, 1).astype(np.float32)


def test_a_change_of_brightness_alone_leaves_the_luminance_of_the_coarsest_scale() -> None:
    """Constant images: every contrast term is 1, the luminance (2 m n + C1) / (m^2 + n^2 + C1) to its exponent."""
    x, y = (np.full((2, 25, 22, 2), value, np.float32) for value in (0.5, -0.25))
    c1 = 0.02**2
    luminance = (2 * 1.5 * 0.75 + c1) / (1.5**2 + 0.75**2 + c1)
    exponent = 0.2856 / (0.0448 + 0.2856)  # of the exponents' sum, which is 1
    assert sum(ssim.EXPONENTS) == pytest.approx(1.0001)
    got = multiscale(x, y, scales=2)
    np.testing.assert_allclose(got, luminance ** (exponent * sum(ssim.EXPONENTS)), rtol=1e-5)


def test_one_scale_is_ssim_and_equal_images_score_one() -> None:
    x, y = pair(0, (2, 25, 22, 2))
    np.testing.assert_allclose(multiscale(x, y, scales=1), single(x, y) ** 1.0001, rtol=1e-5)
    np.testing.assert_allclose(multiscale(x, x, scales=2), 1, atol=1e-6)


def test_two_scales_by_hand() -> None:
    x, y = pair(1, (2, 25, 22, 2))
    fine = np.asarray(jax.jit(ssim.similarity_maps)(x, y)[1]).mean((1, 2, 3))
    small = [(v[:, :24:2, ::2] + v[:, 1:24:2, ::2] + v[:, :24:2, 1::2] + v[:, 1:24:2, 1::2]) / 4 for v in (x, y)]
    coarse = np.asarray(single(*small))
    total = 0.0448 + 0.2856
    wanted = (fine**0.0448 * coarse**0.2856) ** (1.0001 / total)
    np.testing.assert_allclose(multiscale(x, y, scales=2), wanted, rtol=1e-5)


def test_an_image_against_its_negative_scores_zero_not_nan() -> None:
    x, _ = pair(2, (2, 25, 22, 2))
    assert float(single(x, -x)[0]) < -0.5
    np.testing.assert_array_equal(multiscale(x, -x, scales=2), 0)


def test_nan_shows_in_its_own_image_alone() -> None:
    x, y = pair(3, (2, 25, 22, 2))
    x[0, 5, 5, 0] = np.nan
    got = np.asarray(multiscale(x, y, scales=1))
    assert np.isnan(got[0])
    assert np.isfinite(got[1])


def test_too_small_images_are_told_how_many_scales_fit() -> None:
    def refused(shape: tuple[int, ...], scales: int = 5) -> str:
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        with pytest.raises(UserError) as caught:
            jax.eval_shape(lambda x: ssim.multiscale_structural_similarity(x, x, scales=scales), image)
        return str(caught.value)

    message = refused((1, 300, 175, 1))
    assert "300x175 pixels are too small for 5 scales, which need 176 pixels" in message
    assert "at most 4 fit (scales=4)" in message
    assert "no scale fits" in refused((1, 1, 1, 1), 1)
    assert "6 scales" in refused((1, 512, 512, 1), 6)
    image = jax.ShapeDtypeStruct((1, 176, 176, 1), jnp.float32)
    assert jax.eval_shape(lambda x: ssim.multiscale_structural_similarity(x, x), image).shape == (1,)


@pytest.mark.parametrize("kind", ["xray", "he"])
def test_real_images_as_other_packages_see_them(shared, kind: str) -> None:
    first, second, rows = pairs(shared, kind)
    x, y = to_unit(first), to_unit(second)
    similarity = single(x, y)
    for name in ("skimage_ssim", "torchmetrics_ssim_whole_windows"):
        np.testing.assert_allclose(similarity, column(rows, name), atol=1e-4)
    np.testing.assert_allclose(multiscale(x, y), column(rows, "torchmetrics_ms_ssim_whole_windows"), atol=1e-4)
    if kind == "xray":
        np.testing.assert_allclose(multiscale(x, y), column(rows, "piq_ms_ssim"), atol=1e-4)


def test_torchmetrics_number_is_that_of_the_mirrored_images(shared) -> None:
    first, second, rows = pairs(shared, "he")
    x, y = (np.pad(to_unit(v), ((0, 0), (5, 5), (5, 5), (0, 0)), mode="reflect") for v in (first, second))
    got = single(x, y)
    np.testing.assert_allclose(got, column(rows, "torchmetrics_ssim"), atol=1e-4)
    assert np.abs(column(rows, "torchmetrics_ssim") - column(rows, "skimage_ssim")).max() > 2e-4
