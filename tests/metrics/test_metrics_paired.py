"""Paired image quality: closed forms, reference implementations, precision of the accumulator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import paired

ONE = np.ones(1, np.float32)
accumulate = jax.jit(paired.accumulate)


def images(seed, shape, spread=0.4):
    """Smooth-ish random images in [-1, 1]."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, spread, (shape[0], shape[1] // 4 + 1, shape[2] // 4 + 1, shape[3]))
    smooth = coarse.repeat(4, 1).repeat(4, 2)[:, : shape[1], : shape[2]]
    return np.clip(smooth + rng.normal(0, 0.1, shape), -1, 1).astype(np.float32)


def measure(predicted, target, mask=None):
    mask = np.ones(len(predicted), np.float32) if mask is None else mask
    return paired.compute(accumulate(paired.init(), predicted, target, mask))


def constant(value, shape=(1, 16, 16, 1)):
    return np.full(shape, value, np.float32)


def test_constant_offset_has_the_psnr_of_the_definition():
    """An error of .2 on a range of 2 is a tenth of the peak: 20 dB, the same as .1 on [0, 1]."""
    target = images(0, (1, 16, 16, 3)) * 0.5
    got = measure(target + np.float32(0.2), target)
    assert got["psnr"] == pytest.approx(20.0, abs=1e-4)
    assert got["psnr_mean"] == pytest.approx(20.0, abs=1e-4)
    assert got["mae"] == pytest.approx(0.2, abs=1e-6)
    assert got["pearson"] == pytest.approx(1.0, abs=1e-6)


def test_pooled_and_mean_psnr_differ_as_they_should():
    """Errors .2 and .02: pooled from the mean of .04 and .0004, mean from 20 and 40 dB."""
    target = images(1, (2, 16, 16, 1)) * 0.5
    got = measure(target + np.array([0.2, 0.02], np.float32)[:, None, None, None], target)
    assert got["psnr_mean"] == pytest.approx(30.0, abs=1e-3)
    assert got["psnr"] == pytest.approx(10 * np.log10(4 / 0.0202), abs=1e-3)


def test_identical_images_stop_at_the_cap():
    target = images(2, (2, 16, 16, 1))
    got = measure(target, target)
    assert got["psnr"] == got["psnr_mean"] == pytest.approx(paired.PSNR_CAP, abs=1e-3)
    assert got["ssim"] == pytest.approx(1.0, abs=1e-6)
    assert got["mae"] == 0.0


@pytest.mark.parametrize("value", [-1.0, 0.9, 0.123456, 1.0])
def test_constant_images_are_finite_and_uncorrelated(value):
    got = measure(constant(value), images(3, (1, 16, 16, 1)))
    assert got["pearson"] == 0.0
    assert all(np.isfinite(v) for v in got.values())


def test_constant_images_have_the_ssim_of_the_luminance_term():
    """Without variance only (2 m n + C1) / (m^2 + n^2 + C1) is left, with means above black."""
    got = measure(constant(0.5), constant(-0.25))
    c1 = 0.02**2
    assert got["ssim"] == pytest.approx((2 * 1.5 * 0.75 + c1) / (1.5**2 + 0.75**2 + c1), abs=1e-5)


@pytest.mark.parametrize("shape", [(2, 24, 31, 3), (1, 11, 11, 1), (1, 40, 17, 2)])
def test_ssim_equals_scikit_image(shape):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    x, y = images(4, shape), images(5, shape)
    y = (0.6 * x + 0.4 * y).astype(np.float32)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=-1)
    pairs = zip(x.astype(np.float64) / 2 + 0.5, y.astype(np.float64) / 2 + 0.5, strict=True)
    wanted = np.mean([structural_similarity(a, b, **options) for a, b in pairs])
    assert 0.2 < wanted < 0.95
    assert measure(x, y)["ssim"] == pytest.approx(wanted, abs=1e-4)


def test_ssim_and_psnr_are_those_of_the_8_bit_images():
    skimage = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(6)
    a = rng.integers(0, 256, (32, 32), np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    got = measure(*(np.float32(v[None, :, :, None] / 127.5 - 1) for v in (b, a)))
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    assert got["ssim"] == pytest.approx(skimage.structural_similarity(a, b, **options), abs=1e-4)
    assert got["psnr"] == pytest.approx(skimage.peak_signal_noise_ratio(a, b, data_range=255), abs=1e-3)


def test_pearson_pools_all_pixels():
    x, y = images(7, (3, 16, 20, 3)), images(8, (3, 16, 20, 3))
    y = 0.5 * x + 0.5 * y + np.linspace(-0.3, 0.3, 3, dtype=np.float32)[:, None, None, None]
    wanted = np.corrcoef(x.astype(np.float64).ravel(), y.astype(np.float64).ravel())[0, 1]
    assert measure(x, y)["pearson"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("contrast", [1e-2, 1e-3, 2e-4])
def test_pearson_of_bright_low_contrast_images(contrast):
    """Raw float32 moments would lose the variance: .9^2 rounds by more than contrast^2."""
    x, noise = images(9, (4, 64, 64, 1)), images(10, (4, 64, 64, 1))
    a = (0.9 + contrast * x).astype(np.float32)
    b = (0.9 + contrast * (x + noise)).astype(np.float32)
    wanted = np.corrcoef(a.astype(np.float64).ravel(), b.astype(np.float64).ravel())[0, 1]
    assert measure(a, b)["pearson"] == pytest.approx(wanted, abs=2e-4)


def test_masked_records_never_count_even_if_not_finite():
    x, y = images(11, (3, 16, 16, 1)), images(12, (3, 16, 16, 1))
    padded = x.copy()
    padded[2] = np.nan
    assert measure(padded, y, np.array([1, 1, 0], np.float32)) == measure(x[:2], y[:2])
    assert measure(padded, y, np.array([True, True, False])) == measure(x[:2], y[:2])


def test_a_non_finite_prediction_is_not_hidden():
    x, y = images(13, (1, 16, 16, 1)), images(14, (1, 16, 16, 1))
    x[0, 3, 3, 0] = np.nan
    got = measure(x, y)
    assert np.isnan(got["psnr"]) and np.isnan(got["ssim"]) and np.isnan(got["pearson"])


def test_batches_shards_and_image_sizes_merge_in_any_order():
    """Pooling weighs by pixels: one 32x32 image counts as four 16x16 images."""
    small = [(images(s, (2, 16, 16, 1)), images(s + 50, (2, 16, 16, 1))) for s in (15, 16)]
    large = (images(17, (1, 32, 32, 1)), images(67, (1, 32, 32, 1)))
    a, b, c = (accumulate(paired.init(), x, y, np.ones(len(x), np.float32)) for x, y in [*small, large])
    left = paired.compute(paired.merge(paired.merge(a, b), c))
    right = paired.compute(paired.merge(a, paired.merge(c, b)))
    chained = paired.init()
    for x, y in [*small, large]:
        chained = accumulate(chained, x, y, np.ones(len(x), np.float32))
    assert left == pytest.approx(right, rel=1e-12)
    assert left == pytest.approx(paired.compute(chained), rel=1e-12)
    flat = [np.concatenate([pair[i].ravel() for pair in [*small, large]]).astype(np.float64) for i in (0, 1)]
    assert left["psnr"] == pytest.approx(10 * np.log10(4 / np.mean((flat[0] - flat[1]) ** 2)), abs=1e-5)
    assert left["pearson"] == pytest.approx(np.corrcoef(*flat)[0, 1], abs=1e-6)


def test_sums_outgrow_float32():
    """2^24 images and one more: a float32 counter would stand still."""
    x, y = constant(0.0), constant(0.2)
    one = accumulate(paired.init(), x, y, ONE)
    many = one
    for _ in range(24):
        many = paired.merge(many, many)
    total = np.asarray(paired.merge(many, one), np.float64).sum(-1)
    assert total[0] == 2**24 + 1
    assert total[1] == 256 * (2**24 + 1)
    single = np.asarray(one, np.float64).sum(-1)
    np.testing.assert_allclose(total, single * (2**24 + 1), rtol=1e-12)


def test_sharded_batches_give_the_same_sums():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over_data = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, y, mask = images(20, (8, 16, 16, 1)), images(21, (8, 16, 16, 1)), np.arange(8) < 7
    sharded = accumulate(paired.init(), *jax.device_put((x, y, mask), over_data))
    assert paired.compute(sharded) == pytest.approx(measure(x, y, mask), rel=1e-6)


def test_accumulator_is_static_and_scannable():
    x, y = images(18, (4, 16, 16, 1)), images(19, (4, 16, 16, 1))

    def body(acc, pair):
        return paired.accumulate(acc, pair[0][None], pair[1][None], jnp.ones(1)), None

    acc, _ = jax.jit(lambda: jax.lax.scan(body, paired.init(), (x, y)))()
    assert acc.shape == paired.init().shape and acc.dtype == jnp.float32
    assert paired.compute(acc) == pytest.approx(measure(x, y), rel=1e-6)


def test_bad_input_is_named_before_anything_runs():
    with pytest.raises(UserError, match="10x16 pixels are smaller than the 11x11"):
        jax.eval_shape(paired.accumulate, paired.init(), *[jnp.zeros((1, 10, 16, 1))] * 2, jnp.ones(1))
    with pytest.raises(UserError, match=r"\(1, 16, 16, 3\).*\(1, 16, 16, 1\)"):
        jax.eval_shape(paired.accumulate, paired.init(), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 1)), ONE)
    with pytest.raises(UserError, match="no image pair was added"):
        paired.compute(paired.init())
