"""Frechet distance: Gaussians of known moments, streams and shards, extrapolation, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import frechet


def features(seed, n=40, d=6, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)).astype(dtype)


def with_moments(mean, covariance, n=50, seed=0):
    """Features whose sample mean and covariance are exactly the given ones."""
    raw = np.random.default_rng(seed).normal(size=(n, len(mean)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(raw.T)))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def stream(array, size, d=None):
    acc = frechet.init(d or array.shape[1])
    for start in range(0, len(array), size):
        acc = frechet.accumulate(acc, array[start : start + size])
    return acc


def by_eigenvalues(x, y):
    """The textbook form, good where the covariances have full rank."""
    s, t = np.cov(x.T), np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s) + np.trace(t) - 2 * root


def test_gaussians_of_one_dimension():
    """Means 1 and 4, standard deviations 2 and 5: 3^2 + 3^2."""
    got = frechet.frechet_distance(with_moments([1.0], [[4.0]]), with_moments([4.0], [[25.0]], n=30, seed=1))
    assert got == pytest.approx(18.0, rel=1e-12)


def test_gaussians_whose_covariances_commute():
    """Diagonal covariances: squared distance of means plus that of standard deviations."""
    x = with_moments([0.0, 1.0, 2.0], np.diag([1.0, 4.0, 9.0]))
    y = with_moments([1.0, 1.0, 0.0], np.diag([4.0, 1.0, 9.0]), n=70, seed=1)
    got = frechet.compute(frechet.statistics(x), frechet.statistics(y))
    assert got["fid_mean"] == pytest.approx(5.0, rel=1e-12)
    assert got["fid_covariance"] == pytest.approx(2.0, rel=1e-12)
    assert got["fid"] == pytest.approx(7.0, rel=1e-12)


def test_gaussians_whose_covariances_do_not_commute():
    """Covariances [[2, 1], [1, 1]] and diag(1, 4): the product has trace 6 and determinant 4, so
    the sum of the roots of its eigenvalues is sqrt(6 + 2 * sqrt(4))."""
    x = with_moments([0.0, 0.0], [[2.0, 1.0], [1.0, 1.0]])
    y = with_moments([0.0, 0.0], np.diag([1.0, 4.0]), seed=1)
    assert frechet.frechet_distance(x, y) == pytest.approx(8 - 2 * np.sqrt(10.0), rel=1e-12)


def test_random_sets_agree_with_the_eigenvalue_form():
    x, y = features(0, dtype=float), features(1, 55, dtype=float)
    assert frechet.frechet_distance(x, y) == pytest.approx(by_eigenvalues(x, y), rel=1e-10)
    assert frechet.frechet_distance(y, x) == pytest.approx(by_eigenvalues(x, y), rel=1e-10)


def test_equal_sets_are_at_distance_zero_also_below_full_rank():
    for n, d in ((40, 6), (5, 30)):
        x = features(2, n, d)
        assert 0 <= frechet.frechet_distance(x, x[::-1]) < 1e-12 * np.var(x, axis=0).sum()


def test_translation_adds_its_squared_length_also_below_full_rank():
    for n, d in ((40, 6), (5, 30)):
        x, step = features(3, n, d, float), np.linspace(-1, 2, d)
        assert frechet.frechet_distance(x, x + step) == pytest.approx(np.sum(step**2), rel=1e-12)


def test_scaling_of_a_rank_deficient_set():
    """Doubling about the mean moves each standard deviation by itself: one trace."""
    x = features(4, 5, 30, float)
    centred = x - x.mean(0)
    assert frechet.frechet_distance(centred, 2 * centred) == pytest.approx(np.sum(centred**2) / 4, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(203, 8), (21, 32)])
def test_streams_shards_and_order_give_the_same_number(n, d):
    x, other = features(5, n, d), frechet.statistics(features(6, 90, d))
    whole = frechet.compute(frechet.statistics(x), other)["fid"]
    shards = [stream(part, 7) for part in np.array_split(x, 4)]
    left = frechet.merge(frechet.merge(frechet.merge(*shards[:2]), shards[2]), shards[3])
    right = frechet.merge(shards[3], frechet.merge(shards[1], frechet.merge(shards[2], shards[0])))
    shuffled = stream(x[np.random.default_rng(0).permutation(n)], 5)
    for acc in (stream(x, n), stream(x, 1), stream(x, 16), left, right, shuffled):
        assert acc.count == n
        assert frechet.compute(acc, other)["fid"] == pytest.approx(whole, rel=1e-12)


def test_a_large_common_offset_costs_no_precision():
    """The sum of raw squares would lose ten of its sixteen digits here."""
    x, y = features(7, 100, dtype=float), features(8, 100, dtype=float)
    far = frechet.compute(stream(x + 1e5, 10), stream(y + 1e5, 10))
    assert far["fid_covariance"] == pytest.approx(frechet.compute(stream(x, 10), stream(y, 10))["fid_covariance"], 1e-9)


def test_statistics_stay_small_and_hold_the_covariance():
    x = features(9, 500, 4, float)
    acc = stream(x, 11)
    assert len(acc.factor) <= 8
    reduced = frechet.reduce(acc)
    assert reduced.factor.shape == (4, 4)
    np.testing.assert_allclose(reduced.factor.T @ reduced.factor / 499, np.cov(x.T), rtol=1e-12)
    np.testing.assert_allclose(acc.mean, x.mean(0), rtol=1e-12)


def test_statistics_survive_storage(tmp_path):
    x, other = frechet.statistics(features(10)), frechet.statistics(features(11))
    np.savez(tmp_path / "reference.npz", **x._asdict())
    with np.load(tmp_path / "reference.npz", allow_pickle=False) as stored:
        again = frechet.Statistics(**stored)
    assert frechet.compute(again, other) == frechet.compute(x, other)


def test_masked_records_never_count():
    x, mask = features(12, 12), np.tile([1.0, 1.0, 0.0], 4)
    padded = np.where(mask[:, None] > 0, x, np.nan)
    acc = frechet.accumulate(frechet.init(6), padded, mask)
    other = frechet.statistics(features(13))
    assert acc.count == 8
    assert frechet.compute(acc, other) == frechet.compute(frechet.statistics(x[mask > 0]), other)
    unchanged = frechet.accumulate(acc, padded, np.zeros(12))
    assert frechet.compute(unchanged, other) == frechet.compute(acc, other)


def test_features_may_lie_on_several_devices():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, mask = features(14, 4 * len(jax.devices())), np.arange(4 * len(jax.devices())) % 3 > 0
    got = frechet.accumulate(frechet.init(6), jax.device_put(x, sharding), jax.device_put(mask, sharding))
    want = frechet.accumulate(frechet.init(6), x, mask)
    np.testing.assert_array_equal(got.factor, want.factor)
    assert frechet.accumulate(frechet.init(6), jnp.asarray(x, jnp.bfloat16)).factor.dtype == np.float64


def test_constant_features_are_finite():
    flat = np.full((9, 5), 0.1, np.float32)
    assert frechet.frechet_distance(flat, flat) == pytest.approx(0, abs=1e-30)
    assert frechet.frechet_distance(flat, flat + np.float32(1)) == pytest.approx(5, rel=1e-6)
    x = features(15, 30, 5, float)
    expected = np.sum((x.mean(0) - flat[0]) ** 2) + np.trace(np.cov(x.T))
    assert frechet.frechet_distance(x, flat) == pytest.approx(expected, rel=1e-12)


def test_infinity_takes_the_bias_away():
    """Both sets from one distribution of 10 dimensions: the true distance is zero."""
    rng = np.random.default_rng(16)
    real, fake = rng.normal(size=(20000, 10)), rng.normal(size=(1000, 10))
    reference = frechet.statistics(real)
    plain = frechet.compute(reference, frechet.statistics(fake))["fid"]
    got = frechet.frechet_infinity(reference, fake, seed=3)
    assert abs(got["fid_infinity"]) < plain / 3
    assert got["fid_infinity_slope"] > 0
    assert 0 < got["fid_infinity_standard_error"] < plain / 3
    assert got == frechet.frechet_infinity(reference, fake, seed=3)
    assert got != frechet.frechet_infinity(reference, fake, seed=4)


def test_infinity_is_the_intercept_over_inverse_sizes(monkeypatch):
    """Distances of exactly 5 + 80 / n."""
    monkeypatch.setattr(frechet, "compute", lambda real, fake: {"fid": 5 + 80 / float(fake.count)})
    got = frechet.frechet_infinity(frechet.statistics(features(17)), features(18), points=4, smallest=10)
    assert got["fid_infinity"] == pytest.approx(5, rel=1e-12)
    assert got["fid_infinity_slope"] == pytest.approx(80, rel=1e-12)
    assert got["fid_infinity_standard_error"] == pytest.approx(0, abs=1e-10)


def test_standard_error_of_the_intercept():
    """x = 0, 1, 2 and y = 0, 1, 1: intercept 1/6, residuals -1/6, 1/3, -1/6."""
    got = frechet._line(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]))
    assert got["fid_infinity"] == pytest.approx(1 / 6)
    assert got["fid_infinity_slope"] == pytest.approx(0.5)
    assert got["fid_infinity_standard_error"] == pytest.approx(np.sqrt(1 / 6 * (1 / 3 + 1 / 2)))


def test_features_of_a_network_below_full_rank(shared):
    """Four images against four in 2048 dimensions; the stored FID is of 32 against 32, which needs
    the network. The reference rotates all into the eight dimensions they span."""
    with np.load(shared / "weights" / "golden.npz", allow_pickle=False) as golden:
        x, y = golden["feat_tf_s0"], golden["feat_tf_s1"]
    basis, _ = np.linalg.qr(np.concatenate([x, y]).astype(float).T)
    expected = by_eigenvalues(x @ basis, y @ basis)
    assert frechet.frechet_distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_bad_input_is_named():
    good, bad = features(19), features(20)
    bad[17, 3], bad[30, 0] = np.nan, np.inf
    with pytest.raises(UserError, match=r"fake features: number 17 holds NaN or infinity \(2 of 40"):
        frechet.frechet_distance(good, bad)
    with pytest.raises(UserError, match="number 17"):
        frechet.accumulate(frechet.init(6), bad)
    with pytest.raises(UserError, match="real features: 1 of them; at least 2"):
        frechet.frechet_distance(good[:1], good)
    with pytest.raises(UserError, match="6 numbers each and fake features 5"):
        frechet.frechet_distance(good, good[:, :5])
    with pytest.raises(UserError, match=r"shape \(40, 2, 3\)"):
        frechet.frechet_distance(good.reshape(40, 2, 3), good)
    one = frechet.accumulate(frechet.init(6), good[:1])
    with pytest.raises(UserError, match="fake set has 1 features"):
        frechet.compute(frechet.statistics(good), one)
    for wrong in (good[:, :5], good[:0, :5]):
        with pytest.raises(UserError, match="of 6 and of 5 numbers"):
            frechet.accumulate(one, wrong)
    stored = frechet.statistics(good)._replace(mean=np.full(6, np.nan))
    with pytest.raises(UserError, match="real set hold NaN"):
        frechet.compute(stored, frechet.statistics(good))
    for options in ({"points": 2}, {"smallest": 1}, {"smallest": 30}):
        with pytest.raises(UserError, match="subset sizes"):
            frechet.frechet_infinity(frechet.statistics(good), good, **options)
